"""GDPO

Paper: Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL Optimization",
2026, arXiv 2601.05242.
Hook: advantage (each reward normalised in its group, then the weighted sum over the batch).
Claim: GRPO on summed rewards maps different mixtures to the same advantage; decoupled, training converges better on
tool calling, mathematics and code.
Left out: conditioning one reward on another (a reward function's own business).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import DecoupledAdvantage
from temper.parts.losses import Clip

SLUG = "gdpo"
TITLE = "GDPO"
PAPER = "arXiv 2601.05242"
FAMILY = "objectives"
HOOKS = ("advantage",)
RECIPE = "gdpo"


def gdpo(policy: Any, *, weights: Mapping[str, float], clip: float = 0.2, minibatches: int = 1) -> Method:
    """weights: {name of a reward part: its weight}."""
    return Method(
        on_batch=[DecoupledAdvantage(weights)],
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean)],
        minibatches=minibatches,
    )
