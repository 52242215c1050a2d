"""REINFORCE++-baseline

Paper: Hu et al., "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization", 2025,
arXiv 2501.03262.
Hook: advantage (r − group mean, then whitened over all tokens of the batch), loss (PPO clip; KL as a k2 term).
Claim: the group mean reshapes the reward, the batch's spread scales it: no group is amplified by its own small σ.
Left out: nothing. The KL estimator is the paper's, its weight is reconstructed.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Term, token_mean
from temper.parts.advantages import Advantage, Whiten, group_mean, unscaled
from temper.parts.kl import KL, k2, towards
from temper.parts.losses import Clip

SLUG = "reinforce-plus-plus-baseline"
TITLE = "REINFORCE++-baseline"
PAPER = "arXiv 2501.03262"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "reinforce-plus-plus-baseline"


def reinforce_plus_plus_baseline(
    policy: Any, *, reference: Any = None, beta: Coefficient = 0.001, clip: float = 0.2
) -> Method:
    stages, terms = towards(reference, beta, KL(k2))
    return Method(
        on_batch=[Advantage(group_mean, unscaled), Whiten(), *stages],
        terms=[Term("policy", Clip(clip, clip), per=token_mean), *terms],
        policies={} if reference is None else {"reference": reference},
    )
