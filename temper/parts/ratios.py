"""Sampler and learner disagree about log-probs (numerics, staleness): three policies π_behaviour, π_old, π_θ.

Decoupled mode: the loss clips ρ = π_θ/π_old, and w = π_old/π_behaviour, capped and without gradient, corrects for who
sampled. Bypass mode: the loss takes the sampler's log-probs as the old ones, its ratio is the whole correction, and
w must be 1: `corrected` builds the first, a bare loss is the second.
(Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import TOKEN, TRAJECTORY, Column, Level, boolean, floating
from temper.parts.logprobs import BEHAVIOUR, OLD
from temper.parts.losses import Weighted

TIS_WEIGHT = Column("tis_weight", TOKEN, floating, "π_old/π_behaviour, capped: weight of the policy loss")
MATCHED = Column("matched", TOKEN, boolean, "sampler and learner agree well enough about it")

Cut = Callable[[Tensor, float], Tensor]


def truncate(w: Tensor, cap: float) -> Tensor:
    """min(w, cap)."""
    return w.clamp(max=cap)


def mask(w: Tensor, cap: float) -> Tensor:
    """w where w ≤ cap, else 0."""
    return torch.where(w > cap, torch.zeros_like(w), w)


def mismatch(b: Batch, old: Column, behaviour: Column) -> Tensor:
    """[tokens] log π_old − log π_behaviour within ±20; NaN where a demonstration has no sampler."""
    return (b[old] - b[behaviour]).clamp(-20, 20)


@dataclass
class TruncatedIS:
    """w = cut(π_old/π_behaviour, cap) at every token.

    level      TOKEN: each token's own ratio; TRAJECTORY: the product over the trajectory, at each of its tokens
    cut        truncate (cap 2, verl) or mask (TRL uses it per trajectory with cap 3)
    normalise  divide by the mean over the batch's tokens, so that the weights average 1
    """

    cap: float = 2.0
    level: Level = TOKEN
    cut: Cut = truncate
    normalise: bool = False
    old: Column = OLD
    behaviour: Column = BEHAVIOUR
    metrics: dict[str, float] = field(default_factory=dict)
    writes = (TIS_WEIGHT,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.old, self.behaviour)

    async def __call__(self, b: Batch) -> Batch:
        ell = mismatch(b, self.old, self.behaviour)
        if self.level == TRAJECTORY:
            known = ~ell.isnan()
            ell = b.spread(b.sum(ell, TOKEN, TRAJECTORY).clamp(-20, 20), TRAJECTORY, TOKEN)
            ell = torch.where(known, ell, torch.full_like(ell, torch.nan))
        ratio = ell.exp()
        w = self.cut(ratio, self.cap)
        if self.normalise:
            w = w / w.nanmean().clamp(min=1e-8)
        self.metrics = {
            "sampling/importance_sampling_ratio/mean": w.nanmean().item(),
            "tis_capped": (ratio > self.cap).float().mean().item(),
        }
        return b.put(TIS_WEIGHT, w)


def corrected(loss: Any, weight: Column = TIS_WEIGHT) -> Weighted:
    """`loss` in decoupled mode: against π_old, weighted by `weight`."""
    return Weighted(replace(loss, old=OLD), (weight,))


def ratio(ell: Tensor) -> Tensor:
    """π_old/π_behaviour at a token; the mean of it over a trajectory."""
    return ell.exp()


def k1(ell: Tensor) -> Tensor:
    """−ℓ; over a trajectory, minus the log of the geometric mean ratio."""
    return -ell


def k2(ell: Tensor) -> Tensor:
    """½ℓ²."""
    return 0.5 * ell.square()


def k3(ell: Tensor) -> Tensor:
    """e^ℓ − ℓ − 1: the KL from the sampler to the learner, never negative."""
    return ell.exp() - ell - 1


@dataclass(frozen=True)
class Matched:
    """Rejection: keeps the tokens (or whole trajectories) whose `statistic` of ℓ lies within [low, high].

    statistic  ratio, k1, k2, k3, or any function of ℓ = log π_old − log π_behaviour
    level      TOKEN: each token on its own; TRAJECTORY: the mean over the trajectory decides for all of it
    """

    low: float = 0.5
    high: float = 2.0
    statistic: Callable[[Tensor], Tensor] = ratio
    level: Level = TOKEN
    old: Column = OLD
    behaviour: Column = BEHAVIOUR
    writes = (MATCHED,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.old, self.behaviour)

    async def __call__(self, b: Batch) -> Batch:
        x = self.statistic(mismatch(b, self.old, self.behaviour))
        if self.level == TRAJECTORY:
            x = b.spread(b.mean(x, TOKEN, TRAJECTORY), TRAJECTORY, TOKEN)
        return b.put(MATCHED, (x >= self.low) & (x <= self.high))
