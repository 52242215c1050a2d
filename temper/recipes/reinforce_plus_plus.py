"""REINFORCE++ on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.reinforce_plus_plus import reinforce_plus_plus as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def reinforce_plus_plus(beta: float = 0.01, gamma: float = 1.0, clip: float = 0.2, **options: Any) -> Run:
    """Return-to-go with a KL penalty, whitened over the batch (Hu et al. 2025).

    beta   weight of the KL to the starting weights, in the reward (0: none, and no reference model)
    gamma  discount a token
    clip   range of the probability ratio
    """
    return post_train(
        lambda policy: method(
            policy, reference=policy.reference() if beta else None, beta=beta, gamma=gamma, clip=clip
        ),
        name="reinforce-plus-plus",
        **options,
    )
