"""A stage: Batch -> Batch, declaring which columns it reads and which it writes.

Rewards, bonuses, gates, advantages, other models' log-probs, replay, cutting and re-rolling are all stages. A group is
a batch of one request, so the same stage works on each group as it lands (`on_group`) or on the whole batch.

Optional members, looked up by name:
    uses        columns that are read when present, and not required
    wanted      True: its writes must be read by something later, else the run is refused (a gate, a teacher)
    metrics     {name: number} of the last call, reported with the step
    state_dict / load_state_dict   for parts with memory; plain data and tensors only
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from temper.carrier import Batch
from temper.columns import Column


@runtime_checkable
class Stage(Protocol):
    @property
    def reads(self) -> tuple[Column, ...]: ...

    @property
    def writes(self) -> tuple[Column, ...]: ...

    async def __call__(self, b: Batch) -> Batch: ...


@dataclass(frozen=True)
class Compute:
    """A stage that writes one column from a plain function of the batch: `Compute(BONUS, my_function, reads=(…))`."""

    column: Column
    function: Callable[[Batch], Tensor]
    reads: tuple[Column, ...] = ()

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.column,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(self.column, self.function(b))


@dataclass
class Counted:
    """What a stage inherits whose only memory is how often it was called."""

    calls: int = field(default=0, kw_only=True)

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]
