"""GPG

Paper: Chu et al., "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning", 2025,
arXiv 2504.02546.
Hook: advantage (group mean, no σ; corrected for groups that give no gradient), loss (plain REINFORCE).
Claim: no surrogate, no clip, no critic, no reference, and better than GRPO across reasoning tasks.
Left out: the paper's dynamic threshold that resamples batches with too few useful groups.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, group_mean, share_with_signal
from temper.parts.losses import Reinforce

SLUG = "gpg"
TITLE = "GPG"
PAPER = "arXiv 2504.02546"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "gpg"


def gpg(policy: Any) -> Method:
    return Method(
        on_batch=[Advantage(group_mean, share_with_signal)],
        terms=[Term("policy", Reinforce(), per=token_mean)],
    )
