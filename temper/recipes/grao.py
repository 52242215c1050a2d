"""Attempts and a reference answer at once on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.grao import grao as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def grao(
    beta: float = 0.5,
    lam: float = 0.6,
    cap: float = 5.0,
    with_reference: bool = False,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Weighted log-likelihoods of attempts and of a reference answer (GRAO 2025).

    beta            weight of the reference answer
    lam             weight of the alignment, which is more exploration
    cap             bound of the reference's advantage
    with_reference  the reference's reward is part of the group's mean and deviation
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy, judges: method(
            policy, judges=judges, beta=beta, lam=lam, cap=cap, with_reference=with_reference, minibatches=minibatches
        ),
        name="grao",
        **options,
    )
