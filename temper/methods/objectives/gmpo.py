"""GMPO

Paper: Zhao et al., "Geometric-Mean Policy Optimization", 2025, arXiv 2507.20673.
Hook: loss (geometric instead of arithmetic mean of the clipped token ratios).
Claim: outlier ratios lose their grip, so the clip can be wide; 4 points above GRPO on mathematics for a 7B model.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import GMPO

SLUG = "gmpo"
TITLE = "GMPO"
PAPER = "arXiv 2507.20673"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "gmpo"


def gmpo(policy: Any, *, width: float = 0.4, minibatches: int = 1) -> Method:
    return Method(
        on_group=[Advantage()],
        terms=[Term("policy", GMPO(width), per=seq_mean_token_mean)],
        minibatches=minibatches,
    )
