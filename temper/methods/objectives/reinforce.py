"""REINFORCE

Paper: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.
Hook: advantage, loss.
Claim: (r − b)·∇log π is an unbiased estimate of the gradient of the expected reward, for any baseline b.
Left out: reward-to-go per token (all reward arrives at the end); off-policy weights (one update per batch).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Per, Term, seq_mean_token_sum
from temper.parts.advantages import Advantage, Statistic, no_baseline, unscaled
from temper.parts.losses import Reinforce

SLUG = "reinforce"
TITLE = "REINFORCE"
PAPER = "Williams 1992"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "reinforce"


def reinforce(policy: Any, *, baseline: Statistic = no_baseline, per: Per = seq_mean_token_sum) -> Method:
    return Method(
        on_batch=[Advantage(baseline=baseline, scale=unscaled)],
        terms=[Term("policy", Reinforce(), per=per)],
    )
