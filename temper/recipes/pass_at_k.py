"""GRPO for pass@k on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.pass_at_k import pass_at_k as method
from temper.parts.advantages import GROUP_STD, unscaled
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def pass_at_k(scaled: bool = False, clip: float = 0.2, minibatches: int = 1, **options: Any) -> Run:
    """The expected best of a task's answers (k = attempts) is raised, not their mean (Tang et al. 2025).

    scaled       divide advantages by the standard deviation of the group's rewards
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """
    scale = GROUP_STD if scaled else unscaled
    return post_train(
        lambda policy: method(policy, scale=scale, clip=clip, minibatches=minibatches), name="pass-at-k", **options
    )
