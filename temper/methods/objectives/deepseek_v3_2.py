"""The DeepSeek-V3.2 objective

Paper: DeepSeek-AI, "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models", 2025, arXiv 2512.02556.
Hook: loss (off-policy sequence mask; KL estimate times the importance ratio).
Claim: both remove failure modes of GRPO when batches are split into many mini-batches or sampled by another engine.
Left out: keep-routing (no expert model here); keep-sampling-mask is the house's rule already: log-probs are those of
the truncated distribution that was sampled. Reconstructed: delta and beta, which the paper does not give.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Term, seq_mean_token_mean
from temper.parts.advantages import Advantage, group_mean, unscaled
from temper.parts.kl import KL, k3, towards
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.losses import Clip, OffPolicyMask

SLUG = "deepseek-v3-2"
TITLE = "The DeepSeek-V3.2 objective"
PAPER = "arXiv 2512.02556"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "deepseek-v3-2"


def deepseek_v3_2(
    policy: Any,
    *,
    reference: Any = None,
    beta: Coefficient = 0.001,
    clip: float = 0.2,
    delta: float = 0.5,
    minibatches: int = 1,
) -> Method:
    stages, terms = towards(reference, beta, KL(k3, old=BEHAVIOUR), per=seq_mean_token_mean)
    return Method(
        on_group=[Advantage(group_mean, unscaled)],
        on_batch=stages,
        terms=[Term("policy", OffPolicyMask(Clip(clip, clip), delta), per=seq_mean_token_mean), *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
