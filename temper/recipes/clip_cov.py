"""Clip-Cov on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.clip_cov import clip_cov as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def clip_cov(
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip: float = 0.2,
    minibatches: int = 1,
    seed: int = 0,
    **options: Any,
) -> Run:
    """GRPO without the gradient of a few tokens that drive entropy down (Cui et al. 2025).

    share        of the tokens that lose their gradient
    low, high    covariances that a token may lose its gradient for
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, share=share, low=low, high=high, clip=clip, minibatches=minibatches, seed=seed),
        name="clip-cov",
        seed=seed,
        **options,
    )
