"""Which attempts of a group are compared and trained on. The others keep their REWARD, and get none in KEPT (NaN).

So a row that is left out is in no baseline and in no loss, and the curriculum and the report still see it. Stages come
before the advantage, which reads KEPT; a later one takes KEPT for its `reward` too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import (
    ADVANTAGE,
    AUTHOR,
    INFO,
    REWARD,
    TOKEN,
    TRAJECTORY,
    TURN_TEXT,
    Column,
    boolean,
)
from temper.envs.chat import CONTEXT, TOKENS
from temper.episode import ENV
from temper.parts.advantages import group_count, highest, lowest

KEPT = REWARD.of("kept")
NOT_VOID = Column("not_void", TOKEN, boolean, "of a trajectory without a void turn")
POSITIVE = Column("positive", TOKEN, boolean, "with an advantage above 0")


@dataclass(frozen=True)
class Selection:
    """kept = r where `keeps` says so, else NaN. What the classes below share; this one keeps every judged row."""

    reward: Column = REWARD
    into: Column = KEPT

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.into,)

    async def __call__(self, b: Batch) -> Batch:
        r = b[self.reward]
        return b.put(self.into, torch.where(self.keeps(b, r), r, torch.full_like(r, torch.nan)))

    def keeps(self, b: Batch, r: Tensor) -> Tensor:
        """[trajectories] bool."""
        return ~r.isnan()


@dataclass(frozen=True)
class NotOverlong(Selection):
    """Leaves out what ran out of room: `limit` sampled tokens (0: no limit), the episode's budget, or the context."""

    limit: int = 0

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, INFO)

    def keeps(self, b: Batch, r: Tensor) -> Tensor:
        spent = torch.tensor([(info or {}).get("finish") in (TOKENS, CONTEXT) for info in b[INFO]])
        full = b.count(TOKEN, TRAJECTORY) >= (self.limit or torch.inf)
        return ~(spent | full)


@dataclass(frozen=True)
class RewardsDiffer(Selection):
    """Leaves out groups whose rewards are all the same: without credit they would only dilute the others' loss."""

    def keeps(self, b: Batch, r: Tensor) -> Tensor:
        return highest(b, r) > lowest(b, r)


@dataclass(frozen=True)
class EnoughLeft(Selection):
    """Leaves out groups of which fewer than ⌈share·G⌉ of the G attempts are left."""

    share: float = 0.5

    def keeps(self, b: Batch, r: Tensor) -> Tensor:
        needed = (self.share * group_count(b, torch.zeros_like(r)) - 1e-6).ceil()
        return group_count(b, r) >= needed


@dataclass(frozen=True)
class ResampleOnCorrect(Selection):
    """Keeps `keep` of a group's attempts: of the failures (r ≤ 0) the first, of the successes those of least penalty.

    Resample-on-Correct (Shang et al. 2025, rStar2-Agent, arXiv 2508.20722). Of n attempts, n⁻ of them failures,
    k⁻ = round(n⁻·keep/n), half to even, and k⁺ = keep − k⁻; each at least `least` where there are as many. Groups of
    fewer than `keep` attempts, or with equal rewards, are left out.

    tags  that an answer stands between, for the penalty
    """

    keep: int = 16
    least: int = 2
    tags: tuple[str, str] = ("<answer>", "</answer>")

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, INFO, TURN_TEXT, AUTHOR)

    def keeps(self, b: Batch, r: Tensor) -> Tensor:
        penalty, chosen = penalties(b, self.tags), torch.zeros(len(r), dtype=torch.bool)
        for g in range(b.structure.groups):
            rows = ((b.structure.group == g) & ~r.isnan()).nonzero().flatten().tolist()
            if len(rows) >= self.keep and len({float(r[j]) for j in rows}) > 1:
                bad = [j for j in rows if r[j] <= 0]
                good = sorted((j for j in rows if r[j] > 0), key=lambda j: penalty[j])
                few, many = self.shares(len(bad), len(good))
                chosen[bad[:few] + good[:many]] = True
        return chosen

    def shares(self, bad: int, good: int) -> tuple[int, int]:
        """(k⁻, k⁺) of so many failures and successes, at least `keep` in all."""
        few = round(bad * self.keep / (bad + good))
        few = max(few, min(self.least, bad))
        few = min(few, self.keep - min(self.least, good))
        few = min(max(few, self.keep - good), bad)
        return few, self.keep - few


def penalties(b: Batch, tags: tuple[str, str]) -> list[float]:
    """[trajectories] p_err + p_fmt of each (rStar2-Agent): how untidy it is, whatever its reward.

    p_err  share of its calls that did not end "ok"; 0.5 without a call
    p_fmt  1 without an answer between tags, with tags that do not match, or without a turn; else
           min((answers − 1)/turns, 1)
    """
    found = []
    for j, info in enumerate(b[INFO]):
        said = [b[TURN_TEXT][u] for u in b.turns_of(j) if b[AUTHOR][u] != ENV]
        found.append(error_share(info or {}) + untidy("\n".join(said), len(said), tags))
    return found


def error_share(info: object) -> float:
    """Share of the calls that a trajectory's info notes which did not end "ok"; 0.5 where there is none."""
    calls = info.get("calls", ()) if isinstance(info, dict) else ()
    return sum(c["outcome"] != "ok" for c in calls) / len(calls) if calls else 0.5


def untidy(text: str, turns: int, tags: tuple[str, str]) -> float:
    """p_fmt of what was said in so many turns."""
    opened, closed = (text.count(tag) for tag in tags)
    answers = len(re.findall(f"{re.escape(tags[0])}.*?{re.escape(tags[1])}", text, re.DOTALL))
    if not opened or not closed or not opened == closed == answers or not turns:
        return 1.0
    return min((answers - 1) / turns, 1.0)


# gates ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NotVoid:
    """Leaves out of the loss whole trajectories with a void turn (`info` says void); statistics keep them."""

    reads = (INFO,)
    writes = (NOT_VOID,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        fine = torch.tensor([not (info or {}).get("void", False) for info in b[INFO]], dtype=torch.float32)
        return b.put(NOT_VOID, b.spread(fine, TRAJECTORY, TOKEN) > 0)


@dataclass(frozen=True)
class PositiveAdvantage:
    """Marks the tokens with A > 0."""

    reads = (ADVANTAGE,)
    writes = (POSITIVE,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        return b.put(POSITIVE, b[ADVANTAGE] > 0)
