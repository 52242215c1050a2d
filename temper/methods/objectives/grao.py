"""GRAO

Paper: "Learning to Align, Aligning to Learn: A Unified Approach for Self-Optimized Alignment", 2025, arXiv 2508.07750.
Hook: rollout (the reference answer joins every group), advantage, loss (weighted log-likelihoods).
Claim: 57.70, 17.65, 7.95 and 5.18 % (relative) above SFT, DPO, PPO and GRPO on helpful and harmless answers.

    E_i, S  mean log-likelihood of attempt i, of the reference;  Â = (R − μ)/σ with μ, σ (biased) over the attempts
    J = 1/G Σ_i [Â_i E_i + β Â_y S + λ Â_i (E_i − S)],  β = 0.5, λ = 0.6

Since Σ Â_i = 0, the alignment part is λ times more exploration, and J = (1 + λ)·mean Â_i E_i + β Â_y S. First the
reference is imitated (Â_y > 0); once attempts are better it is pushed away. No ratio and no clip: one pass over a
batch.
Reconstructed: Â_y is bounded by `cap`, since it grows without limit as σ falls to 0; a group that agrees has σ =
`floor`, so that its reference still counts. `with_reference` takes the reference into μ and σ, as "one group" may be
read.
Left out: the KL that would bound how far the reference is pushed away: give it as a term of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, INFO, REWARD, TOKEN, TRAJECTORY
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.demonstrations import AddDemonstration, is_demonstration
from temper.parts.gates import DEMONSTRATION, MarkDemonstrations
from temper.parts.losses import Reinforce
from temper.stage import Stage

SLUG = "grao"
TITLE = "GRAO"
PAPER = "arXiv 2508.07750"
FAMILY = "objectives"
HOOKS = ("rollout", "advantage", "loss")
RECIPE = "grao"


@dataclass(frozen=True)
class AlignmentAdvantage:
    """(1 + λ)·Â_i for attempts; β·Â_y − λ·mean Â_i for the reference (the last mean is 0 in a complete group)."""

    beta: float = 0.5
    lam: float = 0.6
    cap: float = 5.0
    floor: float = 0.1
    with_reference: bool = False
    reads = (REWARD, INFO)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        shown = is_demonstration(b)
        z = self.z_scores(b, shown)
        mean = self._over(b, torch.where(shown, torch.nan, z)).nan_to_num(nan=0.0)
        reference = self.beta * z.clamp(-self.cap, self.cap) - self.lam * mean
        return b.put(ADVANTAGE, b.spread(torch.where(shown, reference, (1 + self.lam) * z), TRAJECTORY, TOKEN))

    def z_scores(self, b: Batch, shown: Tensor) -> Tensor:
        """[trajectories] (R − μ)/σ"""
        r = b[REWARD]
        counted = r if self.with_reference else torch.where(shown, torch.nan, r)
        mean = self._over(b, counted)
        std = self._over(b, (counted - mean).square()).sqrt()
        return (r - mean) / std.clamp(min=self.floor)

    def _over(self, b: Batch, x: Tensor) -> Tensor:
        return b.spread(b.mean(x, TRAJECTORY, GROUP), GROUP, TRAJECTORY)


@dataclass(frozen=True)
class Likelihood(Reinforce):
    """−A·log π; its weights look at DEMONSTRATION."""

    uses = (DEMONSTRATION,)


def apart(b: Batch, live: Tensor) -> Tensor:
    """Attempts averaged over attempts, references over references, each over its own tokens first."""
    shown = b[DEMONSTRATION].to(live.dtype)
    return seq_mean_token_mean(b, live * (1 - shown)) + seq_mean_token_mean(b, live * shown)


def grao(
    policy: Any, *, judges: Sequence[Stage] = (), beta: float = 0.5, lam: float = 0.6, cap: float = 5.0,
    with_reference: bool = False, minibatches: int = 1,
) -> Method:  # fmt: skip
    """judges: the run's own; beta, lam, cap, with_reference: see `AlignmentAdvantage`."""
    return Method(
        on_group=[
            AddDemonstration(policy, judges),
            AlignmentAdvantage(beta, lam, cap, with_reference=with_reference),
            MarkDemonstrations(),
        ],
        terms=[Term("policy", Likelihood(), per=apart)],
        minibatches=minibatches,
    )
