"""REINFORCE++-baseline on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.reinforce_plus_plus_baseline import reinforce_plus_plus_baseline as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def reinforce_plus_plus_baseline(beta: float = 0.001, clip: float = 0.2, **options: Any) -> Run:
    """The group's mean as baseline, the batch's spread as scale (Hu et al. 2025).

    beta  weight of the KL term towards the starting weights (0: none, and no reference model)
    clip  range of the probability ratio
    """
    return post_train(
        lambda policy: method(policy, reference=policy.reference() if beta else None, beta=beta, clip=clip),
        name="reinforce-plus-plus-baseline",
        **options,
    )
