"""What is added to the reward before credit is taken from it. REWARD itself stays what the judge said."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from temper.carrier import Batch
from temper.columns import FINISH, REWARD, TOKEN, TRAJECTORY, Column
from temper.errors import UserError
from temper.parts.gates import is_truncated

SHAPED = REWARD.of("shaped")


@dataclass(frozen=True)
class Overlong:
    """shaped = r + min(−(T − (limit − buffer))/buffer · factor, 0), T the trajectory's sampled tokens.

    Soft overlong punishment (DAPO, arXiv 2503.14476, eq. 13): nothing up to limit − buffer, −factor at the limit.
    """

    limit: int = 20480
    buffer: int = 4096
    factor: float = 1.0
    reward: Column = REWARD
    into: Column = SHAPED

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.limit:
            raise UserError(f"the overlong buffer must be within 1 and {self.limit} tokens, got {self.buffer}")

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.into,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(self.into, b[self.reward] + self.penalty(b.count(TOKEN, TRAJECTORY)))

    def penalty(self, length: Tensor) -> Tensor:
        excess = length - (self.limit - self.buffer)
        return (-excess / self.buffer * self.factor).clamp(max=0)


@dataclass(frozen=True)
class MissingEnd:
    """shaped = r − penalty for a trajectory that ran into the length limit (PPO for summaries; TRL)."""

    penalty: float = 1.0
    reward: Column = REWARD
    into: Column = SHAPED

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, FINISH)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.into,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(self.into, b[self.reward] - self.penalty * is_truncated(b).float())


@dataclass(frozen=True)
class Clamp:
    """shaped = clip(r, low, high)."""

    low: float
    high: float
    reward: Column = REWARD
    into: Column = SHAPED

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.into,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(self.into, b[self.reward].clamp(self.low, self.high))
