"""RLOO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.rloo import rloo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def rloo(beta: float = 0.05, **options: Any) -> Run:
    """The mean of the other answers as baseline (Ahmadian et al. 2024).

    beta  weight of the KL to the starting weights, in the reward (0: none, and no reference model)
    """
    return post_train(
        lambda policy: method(policy, reference=policy.reference() if beta else None, beta=beta), name="rloo", **options
    )
