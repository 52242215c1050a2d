"""Does a group count towards the batch? Predicates for `Method.signal` (dynamic sampling)."""

from __future__ import annotations

from dataclasses import dataclass

from temper.carrier import Batch
from temper.columns import REWARD, Column
from temper.parts.advantages import highest, is_alone, lowest


@dataclass(frozen=True)
class RewardVaries:
    """True where the judged rewards differ, or where the group is one trajectory (DAPO).

    `b` holds the group(s) of one request; one of them is enough.
    """

    reward: Column = REWARD

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    def __call__(self, b: Batch) -> bool:
        r = b[self.reward]
        return bool(((is_alone(b) & ~r.isnan()) | (highest(b, r) > lowest(b, r))).any())
