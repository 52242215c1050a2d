"""Hybrid post-training on your own tasks with worked answers, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.hpt import hpt as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def hpt(
    gate: int = 0,
    imitation: float = 1.0,
    entropy: float = 1e-3,
    max_tokens: int = 128,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Imitation where attempts fail, reinforcement elsewhere (Lv et al. 2025).

    Tasks need a worked answer: `completion`, `solution` or `messages` of a data row. The others keep their attempts.

    gate         at most so many right attempts, and the task is imitated
    imitation    weight of the imitation term
    entropy      weight of the entropy bonus
    max_tokens   longest answer, in tokens
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy, gate=gate, imitation=imitation, entropy=entropy, length=max_tokens, minibatches=minibatches
        ),
        name="hpt",
        max_tokens=max_tokens,
        **options,
    )
