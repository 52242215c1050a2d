"""Right answers that are cut short on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.dot import dot as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def dot(
    alpha: float = 3.0,
    margin: float = 4.0,
    kappa: float = 1.0,
    attempts: int = 16,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """The longest of right answers are cut and judged again (DOT 2026).

    alpha        standard deviations above the mean length at which they are cut
    margin       tokens by which they must be longer (the paper: 32), or below 1 a share of their length
    kappa        weight of KL-Cov's penalty
    attempts     attempts at each task: with ten or fewer nothing is cut at alpha 3
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy, judges: method(
            policy, judges=judges, alpha=alpha, margin=margin, kappa=kappa, minibatches=minibatches
        ),
        name="dot",
        attempts=attempts,
        **options,
    )
