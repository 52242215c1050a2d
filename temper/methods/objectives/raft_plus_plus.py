"""RAFT++

Paper: Xiong et al., "A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce", 2025,
arXiv 2504.11343.
Hook: gate (attempts with positive reward), advantage (the reward itself), loss (PPO clip with importance ratio).
Claim: close to GRPO and PPO, faster at first, from positive samples alone.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, no_baseline, unscaled
from temper.parts.gates import REWARDED, Rewarded
from temper.parts.losses import Clip

SLUG = "raft-plus-plus"
TITLE = "RAFT++"
PAPER = "arXiv 2504.11343"
FAMILY = "objectives"
HOOKS = ("gate", "advantage", "loss")
RECIPE = "raft-plus-plus"


def raft_plus_plus(policy: Any, *, threshold: float = 0.0, clip: float = 0.2, minibatches: int = 1) -> Method:
    return Method(
        on_group=[Advantage(no_baseline, unscaled), Rewarded(threshold)],
        terms=[Term("policy", Clip(clip, clip), per=token_mean, where=REWARDED)],
        minibatches=minibatches,
    )
