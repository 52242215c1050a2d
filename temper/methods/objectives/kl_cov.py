"""KL-Cov

Paper: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025,
arXiv 2505.22617.
Hook: gate (the tokens with the highest covariance of log-prob and advantage), loss (a KL penalty on them, no clip).
Claim: as Clip-Cov, with a softer hold; 6.4 points above GRPO on mathematics for a 32B model.
Left out: a new selection in each micro-batch (made here once per batch).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.gates import KLCovSelect
from temper.parts.losses import KLCov

SLUG = "kl-cov"
TITLE = "KL-Cov"
PAPER = "arXiv 2505.22617"
FAMILY = "objectives"
HOOKS = ("gate", "loss")
RECIPE = "kl-cov"


def kl_cov(policy: Any, *, share: float = 2e-4, coef: float = 1.0, minibatches: int = 1) -> Method:
    return Method(
        on_group=[Advantage()],
        on_batch=[KLCovSelect(share)],
        terms=[Term("policy", KLCov(coef), per=token_mean)],
        minibatches=minibatches,
    )
