"""GRPO for pass@k

Paper: Tang et al., "Optimizing Language Models for Inference Time Objectives using Reinforcement Learning", 2025,
arXiv 2503.19595.
Hook: advantage (only the group's best attempt: r_max − r_second).
Claim: an unbiased gradient of the expected maximum of G attempts; better pass@k than training for the mean.
Left out: majority voting as the objective.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage, Statistic, all_but_best, unscaled
from temper.parts.losses import Clip

SLUG = "pass-at-k"
TITLE = "GRPO for pass@k"
PAPER = "arXiv 2503.19595"
FAMILY = "objectives"
HOOKS = ("advantage",)
RECIPE = "pass-at-k"


def pass_at_k(policy: Any, *, scale: Statistic = unscaled, clip: float = 0.2, minibatches: int = 1) -> Method:
    """k is the group's size. scale: GroupStd() divides by the group's σ as well."""
    return Method(
        on_group=[Advantage(all_but_best, scale)],
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean)],
        minibatches=minibatches,
    )
