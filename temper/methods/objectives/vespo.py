"""VESPO

Paper: "VESPO: Variational Sequence-Level Soft Policy Optimization for Stable Off-Policy LLM Training", 2026,
arXiv 2602.10693.
Hook: loss (a smooth weight on the sequence's importance weight, without length normalisation).
Claim: stable training at high staleness and under asynchronous sampling.
Left out: nothing known; the constants (k, λ for A ≥ 0 and A < 0) are those of TRL.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import VESPO, Shape

SLUG = "vespo"
TITLE = "VESPO"
PAPER = "arXiv 2602.10693"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "vespo"


def vespo(policy: Any, *, positive: Shape = (2.0, 3.0), negative: Shape = (3.0, 2.0), minibatches: int = 1) -> Method:
    return Method(
        on_group=[Advantage()],
        terms=[Term("policy", VESPO(positive, negative), per=seq_mean_token_mean)],
        minibatches=minibatches,
    )
