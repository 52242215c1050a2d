"""Sources that count the same, and negatives that wait while entropy is high."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.qwenlong_l15 import qwenlong_l15 as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def qwenlong_l15(
    low: float = 0.2,
    high: float = 0.6,
    attempts: int = 16,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Equal draws and a scale of its own for every task source, and entropy-controlled negatives (QwenLong-L1.5 2025).

    low          entropy a token (nats) below which wrong answers count again
    high         entropy above which only right ones do
    attempts     attempts at each task
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(policy, low=low, high=high, minibatches=minibatches), name="qwenlong-l15",
        attempts=attempts, **options,
    )  # fmt: skip
