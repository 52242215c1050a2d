"""KL-Cov on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.kl_cov import kl_cov as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def kl_cov(share: float = 2e-4, coef: float = 1.0, minibatches: int = 1, **options: Any) -> Run:
    """GRPO with a KL penalty on the few tokens that drive entropy down (Cui et al. 2025).

    share        of the tokens that are held back
    coef         weight of the penalty on them
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, share=share, coef=coef, minibatches=minibatches), name="kl-cov", **options
    )
