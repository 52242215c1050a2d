"""Regression on large, stale batches on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.karl_oapl import karl_oapl as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def karl_oapl(
    beta: float = 0.05,
    value_beta: float = 1.0,
    groups: int = 64,
    attempts: int = 8,
    minibatches: int = 8,
    **options: Any,
) -> Run:
    """The log-ratio regresses on the advantage (OAPL, of KARL 2026).

    beta         scale of the log-ratio summed over an answer's tokens
    value_beta   temperature of the group's soft value: large for the mean, small for the best
    groups       tasks in a large batch
    attempts     attempts at each task
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, beta=beta, value_beta=value_beta, minibatches=minibatches),
        name="karl-oapl",
        groups=groups,
        attempts=attempts,
        **options,
    )
