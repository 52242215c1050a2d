"""CISPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.cispo import cispo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def cispo(upper: float = 5.0, lower: float = 0.0, minibatches: int = 1, **options: Any) -> Run:
    """Clipped importance weights, no token left out (MiniMax 2025).

    upper        highest importance weight of a token
    lower        lowest importance weight of a token
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, upper=upper, lower=lower, minibatches=minibatches), name="cispo", **options
    )
