"""VESPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.vespo import vespo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def vespo(
    positive: tuple[float, float] = (2.0, 3.0),
    negative: tuple[float, float] = (3.0, 2.0),
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """A smooth weight on the whole answer's importance ratio (2026, arXiv 2602.10693).

    positive, negative  power and rate of the weight, by the sign of the advantage
    minibatches         optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, positive=positive, negative=negative, minibatches=minibatches),
        name="vespo",
        **options,
    )
