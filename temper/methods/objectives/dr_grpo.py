"""Dr. GRPO

Paper: Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", 2025, arXiv 2503.20783.
Hook: advantage (no σ), loss aggregation (a constant instead of each answer's length).
Claim: GRPO's division by σ over-weights tasks that are too easy or too hard, and its division by length makes wrong
answers grow; without both, the same accuracy takes fewer tokens.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import SeqMeanTokenSumNorm, Term
from temper.parts.advantages import Advantage, group_mean, unscaled
from temper.parts.losses import Clip

SLUG = "dr-grpo"
TITLE = "Dr. GRPO"
PAPER = "arXiv 2503.20783"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "dr-grpo"


def dr_grpo(policy: Any, *, max_tokens: int = 3000, clip: float = 0.2, minibatches: int = 1) -> Method:
    """max_tokens: the constant that token sums are divided by, the longest answer allowed."""
    return Method(
        on_group=[Advantage(group_mean, unscaled)],
        terms=[Term("policy", Clip(clip, clip), per=SeqMeanTokenSumNorm(max_tokens))],
        minibatches=minibatches,
    )
