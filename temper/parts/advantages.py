"""Credit from rewards: A = (r − baseline) / scale, and what is done to it afterwards.

A baseline or scale is a function (batch, r [trajectories]) -> [trajectories]. NaN rewards (not judged) enter no
statistic and get a NaN advantage, which keeps their tokens out of the policy term. Rounding never leaves a group's
range, so a group of equal rewards has A = 0 exactly. A group of one trajectory has nothing to be compared with: its
baseline is 0 and its scale 1, so that A = r (as in verl). The only judged one of several gets A = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TEMPERATURE, TOKEN, TRAJECTORY, TURN, Column
from temper.parts.walks import Walk

Statistic = Callable[[Batch, Tensor], Tensor]


# group reductions -----------------------------------------------------------------------------------------------------


def group_sum(b: Batch, x: Tensor) -> Tensor:
    """Sum over the group, NaN left out, seen from each of its trajectories."""
    return b.spread(b.sum(x, TRAJECTORY, GROUP), GROUP, TRAJECTORY)


def group_count(b: Batch, r: Tensor) -> Tensor:
    """How many of the group are judged."""
    if not bool(r.isnan().any()):
        return b.spread(b.count(TRAJECTORY, GROUP).to(r.dtype), GROUP, TRAJECTORY)
    return group_sum(b, (~r.isnan()).to(r.dtype))


def highest(b: Batch, x: Tensor) -> Tensor:
    """Maximum over the group, NaN left out (−inf where there is none), seen from each trajectory."""
    x = x.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    top = torch.full((b.size(GROUP),), -torch.inf, dtype=x.dtype)
    return b.spread(top.scatter_reduce(0, b.structure.group, x, "amax"), GROUP, TRAJECTORY)


def lowest(b: Batch, x: Tensor) -> Tensor:
    """Minimum over the group, NaN left out (inf where there is none), seen from each trajectory."""
    return -highest(b, -x)


def is_alone(b: Batch) -> Tensor:
    """[trajectories] whether it is the only one of its group."""
    return b.spread(b.count(TRAJECTORY, GROUP) == 1, GROUP, TRAJECTORY)


def _against(b: Batch, r: Tensor, baseline: Tensor) -> Tensor:
    """`baseline` within the group's range (so that equal rewards cancel exactly), 0 for a singleton."""
    inside = torch.where(group_count(b, r) == 1, r, baseline.clamp(lowest(b, r), highest(b, r)))
    return torch.where(is_alone(b), torch.zeros_like(r), inside)


# baselines ------------------------------------------------------------------------------------------------------------


def no_baseline(b: Batch, r: Tensor) -> Tensor:
    """b = 0: A = r (REINFORCE)."""
    return torch.zeros_like(r)


def batch_mean(b: Batch, r: Tensor) -> Tensor:
    """b = mean of the judged rewards of the whole batch."""
    return r.nanmean().expand_as(r)


def group_mean(b: Batch, r: Tensor) -> Tensor:
    """b = μ, the mean of the group (GRPO)."""
    return _against(b, r, group_sum(b, r) / group_count(b, r))


def leave_one_out(b: Batch, r: Tensor) -> Tensor:
    """b_i = mean of the others, so A = G/(G−1)·(r_i − μ) (RLOO)."""
    return _against(b, r, (group_sum(b, r) - r) / (group_count(b, r) - 1))


def length_weighted_mean(b: Batch, r: Tensor) -> Tensor:
    """b = Σ_j T_j r_j / Σ_j T_j: the variance-minimal baseline where ‖∇log π‖² grows as the length T (OPO)."""
    length = torch.where(r.isnan(), r, b.count(TOKEN, TRAJECTORY).to(r.dtype))
    return _against(b, r, group_sum(b, length * r) / group_sum(b, length))


def all_but_best(b: Batch, r: Tensor) -> Tensor:
    """b = the second-best reward for the best of the group, its own reward for the others: A = r_max − r_second, 0 …

    A tie for the best, or a singleton, leaves nobody ahead: A = 0 (pass@k).
    """
    best = r == highest(b, r)
    second = highest(b, torch.where(best, torch.full_like(r, torch.nan), r))
    alone = group_sum(b, best.to(r.dtype)) == 1
    return torch.where(best & alone & second.isfinite(), second, r)


def is_greedy(b: Batch) -> Tensor:
    """[trajectories] whether every sampled turn was decoded at temperature 0."""
    sampled = b.structure.sampled
    hot = sampled & (b[TEMPERATURE] > 0)
    return (b.sum(hot.float(), TURN, TRAJECTORY) == 0) & (b.sum(sampled.float(), TURN, TRAJECTORY) > 0)


@dataclass(frozen=True)
class GreedyReward:
    """b = the reward of the group's greedy attempt (their mean if several); NaN where none was judged (ReMax)."""

    reads = (TEMPERATURE,)

    def __call__(self, b: Batch, r: Tensor) -> Tensor:
        greedy = torch.where(is_greedy(b), r, torch.full_like(r, torch.nan))
        return b.spread(b.mean(greedy, TRAJECTORY, GROUP), GROUP, TRAJECTORY)


# scales ---------------------------------------------------------------------------------------------------------------


def unscaled(b: Batch, r: Tensor) -> Tensor:
    """1 (Dr. GRPO, RLOO)."""
    return torch.ones_like(r)


@dataclass(frozen=True)
class GroupStd:
    """σ + eps, σ² = Σ(r−μ)²/(G−1) over the group's judged trajectories; 1 where only one is."""

    eps: float = 1e-6

    def __call__(self, b: Batch, r: Tensor) -> Tensor:
        n = group_count(b, r)
        variance = group_sum(b, (r - group_sum(b, r) / n).square()) / (n - 1)
        return torch.where(n == 1, torch.ones_like(r), variance.sqrt() + self.eps)


GROUP_STD = GroupStd()


@dataclass(frozen=True)
class BatchStd:
    """σ + eps, σ² unbiased over every judged trajectory of the batch; 1 if there is only one."""

    eps: float = 1e-6

    def __call__(self, b: Batch, r: Tensor) -> Tensor:
        judged = r[~r.isnan()]
        return (judged.std() + self.eps).expand_as(r) if len(judged) > 1 else torch.ones_like(r)


def share_with_signal(b: Batch, r: Tensor) -> Tensor:
    """The share of the judged trajectories whose group's rewards differ: A/share makes up for silent groups (GPG)."""
    judged = ~r.isnan()
    signal = judged & (highest(b, r) > lowest(b, r))
    return (signal.sum() / judged.sum()).clamp(min=1e-12).to(r.dtype).expand_as(r)


# stages ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advantage:
    """A_{i,t} = (r_i − baseline_i) / scale_i, the same for every token t of trajectory i.

    A token that several trajectories share gets their mean: credit of a segment in a tree.
    reward  the TRAJECTORY column r (REWARD, or what shaping made of it)
    """

    baseline: Statistic = group_mean
    scale: Statistic = GROUP_STD
    reward: Column = REWARD
    writes = (ADVANTAGE,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, *getattr(self.baseline, "reads", ()), *getattr(self.scale, "reads", ()))

    async def __call__(self, b: Batch) -> Batch:
        r = b[self.reward]
        a = (r - self.baseline(b, r)) / self.scale(b, r)
        return b.put(ADVANTAGE, b.spread(a, TRAJECTORY, TOKEN))


@dataclass(frozen=True)
class DecoupledAdvantage:
    """A = z-score over the batch of Σ_k w_k (r_k − μ_k)/σ_k: each part normalised in its group first.

    GDPO (Liu et al. 2026, arXiv 2601.05242). Summing first lets different mixtures of parts collapse to the same
    advantage; here each part keeps its own scale. A part that is NaN for a trajectory adds nothing to it.
    weights  {name: w} of the parts REWARD.of(name)
    """

    weights: Mapping[str, float]
    scale: Statistic = GROUP_STD
    eps: float = 1e-4
    writes = (ADVANTAGE,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(REWARD.of(name) for name in self.weights)

    async def __call__(self, b: Batch) -> Batch:
        parts = torch.stack([w * self._normalised(b, b[REWARD.of(name)]) for name, w in self.weights.items()])
        total = torch.where(parts.isnan().all(0), torch.full_like(parts[0], torch.nan), parts.nansum(0))
        a = (total - total.nanmean()) / BatchStd(self.eps)(b, total)
        return b.put(ADVANTAGE, b.spread(a, TRAJECTORY, TOKEN))

    def _normalised(self, b: Batch, r: Tensor) -> Tensor:
        return (r - group_mean(b, r)) / self.scale(b, r)


@dataclass(frozen=True)
class ReturnToGo:
    """A_t = G_t = Σ_{s≥t} γ^{s−t} r_s, where r_s is the token's own reward, plus the trajectory's at its last token.

    token_reward  a TOKEN column (a KL penalty), None if there is none; NaN (a demonstration's token) counts as 0
    """

    gamma: float = 1.0
    reward: Column = REWARD
    token_reward: Column | None = None
    writes = (ADVANTAGE,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,) if self.token_reward is None else (self.reward, self.token_reward)

    async def __call__(self, b: Batch) -> Batch:
        walk = Walk.of(b)
        r = rewards_along(b, walk, self.reward, self.token_reward)
        return b.put(ADVANTAGE, walk.per_token(walk.discounted(r, self.gamma)))


def rewards_along(b: Batch, walk: Walk, reward: Column, token_reward: Column | None) -> Tensor:
    """r_t [pairs]: the token's own reward, plus the trajectory's at its last token (NaN: not judged)."""
    at_end = walk.at_end(b[reward])
    return at_end if token_reward is None else at_end + b[token_reward].nan_to_num(nan=0.0)[walk.token]


@dataclass(frozen=True)
class Whiten:
    """x ← (x − mean)·(var + eps)^(−½) over every token of the batch that has credit; var unbiased.

    shift=False keeps the mean: x ← x·(var + eps)^(−½). One token alone is left as it is.
    """

    column: Column = ADVANTAGE
    shift: bool = True
    eps: float = 1e-8

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.column,)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.column,)

    async def __call__(self, b: Batch) -> Batch:
        x = b[self.column]
        known = x[~x.isnan()]
        if len(known) < 2:
            return b.put(self.column, x)
        centre = known.mean() if self.shift else 0.0
        return b.put(self.column, (x - centre) * (known.var() + self.eps).rsqrt())
