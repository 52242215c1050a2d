"""GRPO

Paper: Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
arXiv 2402.03300.
Hook: advantage (z-score in the group), loss (PPO clip, mean over tokens, then over trajectories; KL as a k3 term).
Claim: the group replaces PPO's critic: better than SFT and as good as PPO on mathematics at half the memory.
Left out: process supervision; the iterated variant (compose `parts.reference`).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Per, Term, seq_mean_token_mean
from temper.parts.advantages import GROUP_STD, Advantage, BatchStd, Statistic
from temper.parts.kl import towards
from temper.parts.losses import Clip

SLUG = "grpo"
TITLE = "GRPO"
PAPER = "arXiv 2402.03300"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "grpo"


def grpo(
    policy: Any,
    *,
    reference: Any = None,
    beta: Coefficient = 0.04,
    clip: float = 0.2,
    scale: Statistic = GROUP_STD,
    per: Per = seq_mean_token_mean,
    minibatches: int = 1,
) -> Method:
    """scale: σ over the group, the batch, or nothing; per: how tokens are weighted; beta: KL weight (None: no KL)."""
    advantage = Advantage(scale=scale)
    whole_batch = isinstance(scale, BatchStd)
    stages, terms = towards(reference, beta, per=per)
    return Method(
        on_group=[] if whole_batch else [advantage],
        on_batch=[advantage, *stages] if whole_batch else stages,
        terms=[Term("policy", Clip(clip, clip), per=per), *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
