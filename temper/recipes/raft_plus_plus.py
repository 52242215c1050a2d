"""RAFT++ on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.raft_plus_plus import raft_plus_plus as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def raft_plus_plus(threshold: float = 0.0, clip: float = 0.2, minibatches: int = 1, **options: Any) -> Run:
    """RAFT with an importance ratio and a clip (Xiong et al. 2025).

    threshold    answers with a reward above it are trained on
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, threshold=threshold, clip=clip, minibatches=minibatches),
        name="raft-plus-plus",
        **options,
    )
