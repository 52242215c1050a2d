"""OPO

Paper: Hao et al., "On-Policy RL with Optimal Reward Baseline", 2025, arXiv 2505.23585.
Hook: advantage (length-weighted mean of the group's rewards as baseline).
Claim: exact on-policy training with the variance-minimal baseline is stabler than GRPO, keeps entropy higher and
drifts less, without KL or entropy terms.
Left out: nothing; the assumption that a sequence's squared score norm grows as its length is the paper's.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, length_weighted_mean, unscaled
from temper.parts.losses import Reinforce

SLUG = "opo"
TITLE = "OPO"
PAPER = "arXiv 2505.23585"
FAMILY = "objectives"
HOOKS = ("advantage",)
RECIPE = "opo"


def opo(policy: Any) -> Method:
    return Method(
        on_group=[Advantage(length_weighted_mean, unscaled)],
        terms=[Term("policy", Reinforce(), per=token_mean)],
    )
