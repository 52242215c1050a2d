"""GSPO

Paper: Zheng et al., "Group Sequence Policy Optimization", 2025, arXiv 2507.18071.
Hook: loss (length-normalised sequence ratio, clipped per sequence).
Claim: stabler and more efficient than GRPO, above all for mixture-of-experts models, without routing replay.
Left out: GSPO-token is not a variant here: a token-level ADVANTAGE makes it one. The paper makes 4 mini-batches.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import GSPO

SLUG = "gspo"
TITLE = "GSPO"
PAPER = "arXiv 2507.18071"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "gspo"


def gspo(policy: Any, *, clip_low: float = 3e-4, clip_high: float = 4e-4, minibatches: int = 1) -> Method:
    return Method(
        on_group=[Advantage()],
        terms=[Term("policy", GSPO(clip_low, clip_high), per=seq_mean_token_mean)],
        minibatches=minibatches,
    )
