"""Preferences: one group is one prompt, with a chosen and a rejected trajectory. Losses are one value a group.

Notation: Δ_i = Σ_t log π_θ − log π_ref over trajectory i; h = Δ_chosen − Δ_rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from temper.carrier import Batch, Grouping
from temper.columns import GROUP, INFO, LOGP, REWARD, TOKEN, TRAJECTORY, Column, boolean, integer
from temper.parts.advantages import highest, lowest
from temper.parts.gates import to_tokens
from temper.parts.logprobs import REFERENCE
from temper.parts.walks import Walk

PREFERENCE = Column("preference", TRAJECTORY, integer, "+1 chosen, −1 rejected, 0 neither")
PAIRED = Column("paired", GROUP, boolean, "has exactly one chosen and one rejected trajectory")
CHOSEN_TOKEN = Column("chosen_token", TOKEN, boolean, "of the chosen trajectory of a pair")


@dataclass(frozen=True)
class PairsFromInfo:
    """Pairs that the data set names: INFO["chosen"] is true for the chosen, false for the rejected trajectory."""

    reads = (INFO,)
    writes = (PREFERENCE, PAIRED, CHOSEN_TOKEN)

    async def __call__(self, b: Batch) -> Batch:
        sign = {True: 1, False: -1, None: 0}
        return _put_pairs(b, torch.tensor([sign[info.get("chosen")] for info in b[INFO]], dtype=torch.int64))


FROM_INFO = PairsFromInfo()


@dataclass(frozen=True)
class PairsFromReward:
    """Online pairs: the best of a group against its worst (the first of equals); none where all rewards are equal."""

    reward: Column = REWARD
    writes = (PREFERENCE, PAIRED, CHOSEN_TOKEN)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    async def __call__(self, b: Batch) -> Batch:
        r = b[self.reward]
        top, bottom = highest(b, r), lowest(b, r)
        differ = top > bottom
        best, worst = _first(b, differ & (r == top)), _first(b, differ & (r == bottom))
        return _put_pairs(b, best.to(torch.int64) - worst.to(torch.int64))


def _first(b: Batch, flag: Tensor) -> Tensor:
    """[trajectories] the first flagged trajectory of every group."""
    row = torch.where(flag, torch.arange(len(flag)), len(flag)).to(torch.float64)
    return flag & (row == lowest(b, row))


def _put_pairs(b: Batch, preference: Tensor) -> Batch:
    chosen, rejected = (b.sum((preference == s).float(), TRAJECTORY, GROUP) for s in (1, -1))
    paired = (chosen == 1) & (rejected == 1)
    b = b.put(PREFERENCE, preference).put(PAIRED, paired)
    return b.put(CHOSEN_TOKEN, to_tokens(b, (preference == 1) & b.spread(paired, GROUP, TRAJECTORY)))


# DPO and its links ----------------------------------------------------------------------------------------------------

Link = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Logistic:
    """−(1−ε)·log σ(βh) − ε·log σ(−βh); ε > 0 is conservative DPO: labels are wrong with probability ε."""

    noise: float = 0.0

    def __call__(self, h: Tensor, beta: float) -> Tensor:
        return -(1 - self.noise) * logsigmoid(beta * h) - self.noise * logsigmoid(-beta * h)


@dataclass(frozen=True)
class Robust:
    """(−(1−ε)·log σ(βh) + ε·log σ(−βh))/(1−2ε): unbiased under labels flipped with probability ε < ½."""

    noise: float = 0.1

    def __call__(self, h: Tensor, beta: float) -> Tensor:
        noisy = -(1 - self.noise) * logsigmoid(beta * h) + self.noise * logsigmoid(-beta * h)
        return noisy / (1 - 2 * self.noise)


def hinge(h: Tensor, beta: float) -> Tensor:
    """max(0, 1 − βh)."""
    return relu(1 - beta * h)


def squared(h: Tensor, beta: float) -> Tensor:
    """(h − 1/(2β))²."""
    return (h - 1 / (2 * beta)).square()


@dataclass(frozen=True)
class DPO:
    """link(h, β) with h = Δ_chosen − Δ_rejected; by default −log σ(βh) (Rafailov et al. 2023, 2305.18290, eq. 7).

    average  Δ is the mean over the trajectory's tokens instead of their sum (IPO as published code has it)
    tail     weight of tokens beyond the length of the shorter answer (LD-DPO's α; 1 = no desensitising)
    """

    beta: float = 0.1
    link: Link = Logistic()
    average: bool = False
    tail: float = 1.0
    reads = (LOGP, REFERENCE, PREFERENCE)
    level = GROUP

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        delta = self._per_trajectory(b, b[LOGP] - b[REFERENCE])
        h = b.sum(b[PREFERENCE] * delta, TRAJECTORY, GROUP)
        metrics = {"rewards/margins": self.beta * h.detach(), "rewards/accuracies": (h > 0).to(h.dtype)}
        return self.link(h, self.beta), metrics

    def _per_trajectory(self, b: Batch, x: Tensor) -> Tensor:
        if self.tail != 1.0:
            return self._desensitised(b, x)
        return (b.mean if self.average else b.sum)(x, TOKEN, TRAJECTORY).nan_to_num(nan=0.0)

    def _desensitised(self, b: Batch, x: Tensor) -> Tensor:
        """Σ_t x_t, tokens beyond the shorter answer's length weighted by `tail`."""
        walk = Walk.of(b)
        length = b.count(TOKEN, TRAJECTORY)
        shorter = lowest(b, torch.where(b[PREFERENCE] != 0, length, torch.full_like(length, torch.nan)))
        weight = torch.where(walk.place < shorter[walk.trajectory], 1.0, self.tail).to(x.dtype)
        by_trajectory = Grouping(tuple(range(b.size(TRAJECTORY))), walk.trajectory)
        total = by_trajectory.sum(weight * x[walk.token])
        return total / length.clamp(min=1) if self.average else total


@dataclass(frozen=True)
class ORPO:
    """−l_c − λ·log σ(log odds_c − log odds_r), l the mean token log-prob and odds = e^l/(1 − e^l).

    Hong, Lee & Thorne 2024 (arXiv 2403.07691, eqs. 6 and 7): imitation and preference in one loss, no reference.
    """

    lam: float = 0.1
    reads = (LOGP, PREFERENCE)
    level = GROUP

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        mean = b.mean(b[LOGP], TOKEN, TRAJECTORY).nan_to_num(nan=0.0).clamp(max=-1e-6)
        sign = b[PREFERENCE]
        chosen = b.sum((sign > 0) * mean, TRAJECTORY, GROUP)
        odds = b.sum(sign * (mean - torch.log(-torch.expm1(mean))), TRAJECTORY, GROUP)
        metrics = {"rewards/accuracies": (odds > 0).to(odds.dtype), "log_odds_ratio": odds.detach()}
        return -chosen - self.lam * logsigmoid(odds), metrics
