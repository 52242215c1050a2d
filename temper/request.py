"""What a curriculum asks for, and what an environment and a probe are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from temper.carrier import Batch
from temper.columns import Column
from temper.episode import Episode
from temper.policy import Seat
from temper.tasks.task import Task


@dataclass(frozen=True)
class Request:
    """Play `task` `attempts` times.

    params  overrides of the run's sampling parameters for every attempt
    also    one more attempt for each entry, with these overrides (ReMax's greedy one: {"temperature": 0.0})
    id      unique in the run; names the groups and seeds their randomness
    """

    task: Task
    attempts: int = 8
    params: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[Mapping[str, Any], ...] = ()
    id: str = "0"
    split: str = "train"

    def overrides(self) -> list[Mapping[str, Any]]:
        """Sampling overrides of every attempt, in order."""
        return [self.params] * self.attempts + [{**self.params, **extra} for extra in self.also]


class Env(Protocol):
    """Rollout topology as plain async Python.

    Optional attributes: `roles` (names of the seats, default ("solver",)), `writes` (columns that its episodes bring
    beside the core ones: REWARD when it judges itself), `samples` (False when nothing is sampled: demonstrations).
    """

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode: ...


class Curriculum(Protocol):
    """Chooses work and learns from it. Optional: `state_dict`/`load_state_dict`, `metrics`, `reads` (columns)."""

    def next(self, n: int) -> list[Request]:
        """`n` requests for training; fewer only when there are no more tasks."""
        ...

    def observe(self, group: Batch) -> None:
        """Called once for every training request that was played, in the order they were asked for."""
        ...


class Drop(Exception):
    """Raised by an environment: this attempt cannot be judged (its reason is counted), it is not a score of 0."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Probe(Protocol):
    """Observes a run. Optional: `state_dict`/`load_state_dict`, and

    due    (step, steps) -> whether it plays at this step (without it: at every step)
    plays  False: it never plays, nor looks at what plays change, so that nobody has to wait for it
    """

    async def __call__(self, run: Any, step: int) -> Mapping[str, float] | None: ...


def plays(probe: Any, step: int, steps: int) -> bool:
    """Whether a probe may play at this step: what it plays must not meet what is played for training."""
    return getattr(probe, "plays", True) and bool(getattr(probe, "due", lambda *_: True)(step, steps))


def writes_of(env: Env) -> tuple[Column, ...]:
    return tuple(getattr(env, "writes", ()))
