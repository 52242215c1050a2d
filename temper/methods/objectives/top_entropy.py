"""Beyond the 80/20 rule

Paper: Wang et al., "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM
Reasoning", 2025, arXiv 2506.01939.
Hook: gate (only tokens above the batch's entropy quantile are trained), on DAPO's clip.
Claim: a fifth of the tokens is enough at 8B and better than all at 32B.
Left out: DAPO's dynamic sampling and overlong shaping, which the paper keeps on (compose `dapo`'s parts).
"""

from __future__ import annotations

from typing import Any

from temper.columns import ENTROPY
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.gates import HIGH_ENTROPY, TopEntropy
from temper.parts.logprobs import OLD_ENTROPY, Read
from temper.parts.losses import Clip

SLUG = "top-entropy"
TITLE = "Beyond the 80/20 rule"
PAPER = "arXiv 2506.01939"
FAMILY = "objectives"
HOOKS = ("gate",)
RECIPE = "top-entropy"


def top_entropy(
    policy: Any, *, quantile: float = 0.8, clip_low: float = 0.2, clip_high: float = 0.28, minibatches: int = 1
) -> Method:
    return Method(
        on_group=[Advantage()],
        on_batch=[Read(policy, {OLD_ENTROPY: ENTROPY}), TopEntropy(quantile)],
        terms=[Term("policy", Clip(clip_low, clip_high), per=token_mean, where=HIGH_ENTROPY)],
        minibatches=minibatches,
    )
