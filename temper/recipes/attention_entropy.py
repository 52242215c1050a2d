"""Tokens weighted by the entropy of their attention, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.attention_entropy import attention_entropy as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def attention_entropy(
    kappa: float = 0.3,
    ramp: int = 40,
    keep: Literal["all", "low", "high", "random"] = "all",
    share: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Tokens that look at little count more at first, those that look around later (2026).

    kappa  strength of the weights: against spread attention at first, in favour of it in the end
    ramp   steps from one to the other
    keep   train on a subset instead: the tokens with the lowest or highest entropy of attention, or random ones
    share  of the tokens that such a subset has
    seed   of everything that is drawn
    """
    subset = None if keep == "all" else keep
    return post_train(
        lambda policy: method(policy, kappa=kappa, steps=ramp, keep=subset, share=share, seed=seed),
        name="attention-entropy",
        seed=seed,
        **options,
    )
