"""Gates and weights: columns that say which tokens a term may use, and how much. Terms opt in; nothing is deleted.

What published code selects within a micro-batch (Clip-Cov, KL-Cov, the entropy quantile) is selected here over the
whole batch, from log-probs before the update: the choice does not depend on how the batch is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from temper import streams
from temper.carrier import Batch
from temper.columns import (
    ADVANTAGE,
    FINISH,
    REWARD,
    TEMPERATURE,
    TOKEN,
    TRAJECTORY,
    TURN,
    VERSION,
    Column,
    boolean,
    floating,
)
from temper.parts.advantages import is_greedy
from temper.parts.logprobs import BEHAVIOUR, OLD_ENTROPY
from temper.parts.losses import KL_SELECTED
from temper.stage import Counted

NOT_GREEDY = Column("not_greedy", TOKEN, boolean, "sampled, not decoded at temperature 0")
NOT_TRUNCATED = Column("not_truncated", TOKEN, boolean, "of a trajectory that ended by itself")
DEMONSTRATION = Column("demonstration", TOKEN, boolean, "written by nobody's weights: an example to imitate")
REWARDED = Column("rewarded", TOKEN, boolean, "of a trajectory whose reward is above a threshold")
HIGH_ENTROPY = Column("high_entropy", TOKEN, boolean, "above the batch's entropy quantile")
COV_KEPT = Column("cov_kept", TOKEN, floating, "0 where Clip-Cov takes the gradient away, else 1")


def to_tokens(b: Batch, keep: Tensor) -> Tensor:
    """[tokens] true where a trajectory with keep [trajectories] has the token."""
    return b.spread(keep.float(), TRAJECTORY, TOKEN) > 0


@dataclass(frozen=True)
class NotGreedy:
    """Leaves out attempts decoded greedily: they are a baseline, not a sample of the policy (ReMax)."""

    reads = (TEMPERATURE,)
    writes = (NOT_GREEDY,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        return b.put(NOT_GREEDY, to_tokens(b, ~is_greedy(b)))


@dataclass(frozen=True)
class NotTruncated:
    """Overlong filtering: leaves out trajectories with a turn that ran into the length limit (DAPO)."""

    reads = (FINISH,)
    writes = (NOT_TRUNCATED,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        return b.put(NOT_TRUNCATED, to_tokens(b, ~is_truncated(b)))


def is_truncated(b: Batch) -> Tensor:
    """[trajectories] whether a turn of it ended at the length limit."""
    cut = torch.tensor([finish == "length" for finish in b[FINISH]], dtype=torch.float32)
    return b.sum(cut, TURN, TRAJECTORY) > 0


@dataclass(frozen=True)
class MarkDemonstrations:
    """Marks the tokens that no policy sampled (version −1): what an imitation term learns from."""

    reads = (VERSION,)
    writes = (DEMONSTRATION,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        return b.put(DEMONSTRATION, b.spread(b[VERSION], TURN, TOKEN) == -1)


@dataclass(frozen=True)
class Rewarded:
    """Marks the tokens of trajectories with a reward above `threshold`; unjudged ones are not (RAFT)."""

    threshold: float = 0.0
    reward: Column = REWARD
    writes = (REWARDED,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(REWARDED, to_tokens(b, b[self.reward] > self.threshold))


@dataclass(frozen=True)
class AllOf:
    """One gate from several: true where all are."""

    gates: tuple[Column, ...]
    into: Column
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return self.gates

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.into,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(self.into, torch.stack([b[gate] for gate in self.gates]).all(0))


@dataclass(frozen=True)
class TopEntropy:
    """Keeps the tokens whose entropy is at or above the batch's `quantile` (linear between neighbours).

    The 80/20 rule (Wang et al. 2025, arXiv 2506.01939): only the fifth of the tokens where the text forks is trained.
    """

    quantile: float = 0.8
    entropy: Column = OLD_ENTROPY
    writes = (HIGH_ENTROPY,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.entropy,)

    async def __call__(self, b: Batch) -> Batch:
        h = settled(b[self.entropy])
        return b.put(HIGH_ENTROPY, h >= quantile(h[~h.isnan()], self.quantile))


def settled(x: Tensor) -> Tensor:
    """x rounded to 1e-6, for ranks: what differs only by how a batch was laid out is a tie, in the order of rows."""
    return torch.round(x.double(), decimals=6)


def quantile(x: Tensor, q: float) -> Tensor:
    """As torch.quantile, for any number of values; NaN of none."""
    if len(x) == 0:
        return torch.tensor(torch.nan)
    place = q * (len(x) - 1)
    below = int(place)
    ordered = x.sort().values
    return torch.lerp(ordered[below], ordered[min(below + 1, len(x) - 1)], place - below)


# covariance of credit and log-prob (Cui et al. 2025, arXiv 2505.22617) ------------------------------------------------


def covariance(b: Batch, old: Column) -> Tensor:
    """[tokens] (A − Ā)·(log π − mean log π): the token's share of the covariance that drives entropy down.

    Means over the tokens that have both; NaN for the others.
    """
    a, logp = b[ADVANTAGE], b[old]
    known = ~(a + logp).isnan()
    return (a - a[known].mean()) * (logp - logp[known].mean())


def how_many(share: float, cov: Tensor) -> int:
    """`share` of the tokens that have a covariance, at least one if there is any."""
    n = int((~cov.isnan()).sum())
    return min(n, max(1, int(share * n)))


@dataclass
class ClipCovSelect(Counted):
    """Takes the gradient away from a random `share` of the tokens whose covariance is within (low, high).

    As the first optimiser step of the batch sees it: the paper's code draws again in every micro-batch and leaves out
    tokens that the ratio clip already silences. Draws are a function of (seed, calls so far).
    """

    share: float = 2e-4
    low: float = 1.0
    high: float = 5.0
    old: Column = BEHAVIOUR
    seed: int = 0
    writes = (COV_KEPT,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (ADVANTAGE, self.old)

    async def __call__(self, b: Batch) -> Batch:
        cov = covariance(b, self.old)
        within = ((cov > self.low) & (cov < self.high)).nonzero().flatten()
        generator = torch.Generator().manual_seed(streams.key(self.seed, "clip-cov", self.calls))
        order = torch.randperm(len(within), generator=generator)
        self.calls += 1
        kept = torch.ones_like(cov)
        kept[within[order[: how_many(self.share, cov)]]] = 0.0
        return b.put(COV_KEPT, kept)


@dataclass(frozen=True)
class KLCovSelect:
    """Marks the `share` of tokens with the highest covariance: those that KL-Cov holds back."""

    share: float = 2e-4
    old: Column = BEHAVIOUR
    writes = (KL_SELECTED,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (ADVANTAGE, self.old)

    async def __call__(self, b: Batch) -> Batch:
        cov = settled(covariance(b, self.old))
        top = cov.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)[: how_many(self.share, cov)]
        return b.put(KL_SELECTED, torch.zeros(len(cov)).index_fill(0, top, 1.0))
