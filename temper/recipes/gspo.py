"""GSPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.gspo import gspo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def gspo(clip_low: float = 3e-4, clip_high: float = 4e-4, minibatches: int = 1, **options: Any) -> Run:
    """One ratio a sequence, clipped tightly (Zheng et al. 2025).

    clip_low, clip_high  range of the length-normalised sequence ratio, below and above 1
    minibatches          optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, clip_low=clip_low, clip_high=clip_high, minibatches=minibatches),
        name="gspo",
        **options,
    )
