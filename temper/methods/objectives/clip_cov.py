"""Clip-Cov

Paper: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025,
arXiv 2505.22617.
Hook: gate (a few tokens whose log-prob and advantage co-vary most lose their gradient), loss (PPO clip).
Claim: entropy falls by the covariance of log-prob and advantage; silencing its carriers keeps entropy and accuracy up.
Left out: a new draw in each micro-batch (drawn here once per batch).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.gates import COV_KEPT, ClipCovSelect
from temper.parts.losses import Clip, Weighted

SLUG = "clip-cov"
TITLE = "Clip-Cov"
PAPER = "arXiv 2505.22617"
FAMILY = "objectives"
HOOKS = ("gate", "loss")
RECIPE = "clip-cov"


def clip_cov(
    policy: Any,
    *,
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip: float = 0.2,
    seed: int = 0,
    minibatches: int = 1,
) -> Method:
    return Method(
        on_group=[Advantage()],
        on_batch=[ClipCovSelect(share, low, high, seed=seed)],
        terms=[Term("policy", Weighted(Clip(clip, clip), (COV_KEPT,)), per=token_mean)],
        minibatches=minibatches,
    )
