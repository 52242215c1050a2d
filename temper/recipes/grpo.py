"""GRPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.grpo import grpo as method
from temper.objective import seq_mean_token_mean
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def grpo(beta: float = 0.0, clip: float = 0.2, minibatches: int = 1, **options: Any) -> Run:
    """Group relative policy optimisation (Shao et al. 2024).

    beta         weight of the KL term towards the starting weights (0: none, and no reference model)
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        reference = policy.reference() if beta else None
        return method(
            policy, reference=reference, beta=beta, clip=clip, per=seq_mean_token_mean, minibatches=minibatches
        )

    return post_train(make, name="grpo", **options)
