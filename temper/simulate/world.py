"""How long things take, and what fails: the made-up part of a simulation. All times in virtual seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Protocol

from temper import streams
from temper.errors import UserError


class Tail(Protocol):
    """How much longer than usual a sample takes: a factor of mean 1 that depends on the sample's seed alone."""

    def __call__(self, seed: int) -> float: ...


@dataclass(frozen=True)
class Steady:
    """Every token takes the same time."""

    def __call__(self, seed: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Lognormal:
    """exp(N(−σ²/2, σ²)); σ = 1: one in a hundred takes 6 times as long."""

    sigma: float = 1.0

    def __call__(self, seed: int) -> float:
        return math.exp(self.sigma * float(streams.generator(seed, "tail").normal()) - self.sigma**2 / 2)


@dataclass(frozen=True)
class Pareto:
    """(α−1)/α · U^(−1/α), α > 1; at most `most`."""

    alpha: float = 1.5
    most: float = 100.0

    def __post_init__(self) -> None:
        if self.alpha <= 1:
            raise UserError(f"a Pareto tail has a mean only for alpha above 1, got {self.alpha}")

    def __call__(self, seed: int) -> float:
        u = 1.0 - float(streams.generator(seed, "tail").random())
        return float(min(self.most, (self.alpha - 1) / self.alpha * u ** (-1 / self.alpha)))


@dataclass(frozen=True)
class Recorded:
    """Measured durations (in any unit), drawn with replacement and divided by their mean.

    Those of a run: `temper.simulate.Measured.of(DIR).latencies`.
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        if not self.values or min(self.values) <= 0:
            raise UserError("recorded durations must be positive, and there must be some")

    def __call__(self, seed: int) -> float:
        return self.values[int(streams.generator(seed, "tail").integers(len(self.values)))] / self._mean

    @cached_property
    def _mean(self) -> float:
        return fmean(self.values)


@dataclass(frozen=True)
class World:
    """samplers   replicas; slots: samples that one has in flight (more wait)
    token      of a sampled token, whatever else the replica decodes; prompt: of a token of a prompt
    tail       how much longer than that each sample takes
    learners   devices that share an update; train: of one trained token on one of them; step: of every update beside
    transfer   of new weights to one replica
    judge      of one attempt's reward and reference log-probs, on one of `judges` devices (0: takes no time)
    streamed   attempts are judged as their groups land; else all of them once the last has landed
    failures   (when, replica, for how long): its samples are lost, and a new one joins later
    """

    samplers: int = 2
    slots: int = 64
    token: float = 0.01
    prompt: float = 0.0
    tail: Tail = Steady()
    learners: int = 1
    train: float = 0.001
    step: float = 0.0
    transfer: float = 0.0
    judge: float = 0.0
    judges: int = 1
    streamed: bool = True
    failures: tuple[tuple[float, int, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("samplers", "slots", "learners", "judges"):
            if getattr(self, name) < 1:
                raise UserError(f"a world needs at least one of {name}, got {getattr(self, name)}")
        for name in ("token", "prompt", "train", "step", "transfer", "judge"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is a time and must not be negative, got {getattr(self, name)}")
