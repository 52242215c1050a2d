"""Numbers that change with the optimiser step (0, 1, …): usable as a term's coef or as a learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from temper.errors import UserError

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """`value`, always."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `start` at step 0 to `end` at `steps`, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / max(self.steps, 1), 1.0)


@dataclass(frozen=True)
class Cosine:
    """end + (start − end)·(1 + cos(π·step/steps))/2, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * min(step / max(self.steps, 1), 1.0))) / 2


@dataclass(frozen=True)
class StepAt:
    """`low` before the optimiser step `at`, then `high`."""

    low: float
    high: float
    at: int

    def __call__(self, step: int) -> float:
        return self.high if step >= self.at else self.low


@dataclass(frozen=True)
class WarmUp:
    """`then`, reached in `steps` equal rises: then(step)·(step + 1)/steps for step < steps (never 0)."""

    then: Schedule | float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"warmup must not be negative, got {self.steps}")

    def __call__(self, step: int) -> float:
        value = self.then(step) if callable(self.then) else self.then
        return value * min((step + 1) / max(self.steps, 1), 1.0)
