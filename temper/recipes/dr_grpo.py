"""Dr. GRPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.dr_grpo import dr_grpo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def dr_grpo(max_tokens: int = 128, clip: float = 0.2, minibatches: int = 1, **options: Any) -> Run:
    """GRPO without its two biases: no σ, and a constant in the place of each answer's length (Liu et al. 2025).

    max_tokens   longest answer, in tokens; also the constant that sums over an answer's tokens are divided by
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, max_tokens=max_tokens, clip=clip, minibatches=minibatches),
        name="dr-grpo", max_tokens=max_tokens, **options,
    )  # fmt: skip
