"""Beyond the 80/20 rule on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.top_entropy import top_entropy as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def top_entropy(
    quantile: float = 0.8, clip_low: float = 0.2, clip_high: float = 0.28, minibatches: int = 1, **options: Any
) -> Run:
    """Only the tokens where the text forks are trained (Wang et al. 2025).

    quantile             of the batch's entropies below which a token is left out
    clip_low, clip_high  range of the probability ratio, below and above 1
    minibatches          optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy, quantile=quantile, clip_low=clip_low, clip_high=clip_high, minibatches=minibatches
        ),
        name="top-entropy",
        **options,
    )
