"""GRPO with a rising KL weight, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.othink_grpo_d import othink_grpo_d as method
from temper.methods.objectives.othink_grpo_d import rising
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def othink_grpo_d(
    beta_low: float = 0.0,
    beta_high: float = 0.04,
    ramp: int = 40,
    shape: Literal["linear", "cosine", "step"] = "linear",
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """GRPO whose pull towards the starting weights grows (OThink-MR1 2025).

    beta_low     weight of the KL term at first
    beta_high    weight of the KL term in the end
    ramp         optimiser steps until then
    shape        how it rises: linear, cosine, or at once after `ramp` (step)
    minibatches  optimiser steps on each batch
    """
    beta = rising(beta_low, beta_high, ramp, shape)
    return post_train(
        lambda policy: method(policy, reference=policy.reference(), beta=beta, minibatches=minibatches),
        name="othink-grpo-d",
        **options,
    )
