"""SAPO

Paper: Gao et al., "Soft Adaptive Policy Optimization", 2025, arXiv 2511.20347.
Hook: loss (a sigmoid gate on the ratio instead of a clip, sharper for A < 0).
Claim: keeps near-on-policy tokens of a sequence that GSPO would drop whole, and dampens outliers that GRPO clips hard.
Left out: nothing. The paper makes 4 mini-batches.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import SAPO

SLUG = "sapo"
TITLE = "SAPO"
PAPER = "arXiv 2511.20347"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "sapo"


def sapo(policy: Any, *, positive: float = 1.0, negative: float = 1.05, minibatches: int = 1) -> Method:
    return Method(
        on_group=[Advantage()],
        terms=[Term("policy", SAPO(positive, negative), per=seq_mean_token_mean)],
        minibatches=minibatches,
    )
