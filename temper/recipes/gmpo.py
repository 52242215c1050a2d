"""GMPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.gmpo import gmpo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def gmpo(width: float = 0.4, minibatches: int = 1, **options: Any) -> Run:
    """The geometric mean of clipped token ratios (Zhao et al. 2025).

    width        range of a token's log ratio
    minibatches  optimiser steps on each batch
    """
    return post_train(lambda policy: method(policy, width=width, minibatches=minibatches), name="gmpo", **options)
