"""SAPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.sapo import sapo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def sapo(positive: float = 1.0, negative: float = 1.05, minibatches: int = 1, **options: Any) -> Run:
    """A soft gate on the ratio instead of a clip (Gao et al. 2025).

    positive, negative  temperature of the gate by the sign of the advantage
    minibatches         optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, positive=positive, negative=negative, minibatches=minibatches),
        name="sapo",
        **options,
    )
