"""ADORA on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.adora import adora as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def adora(
    factor: float = 0.1,
    full: float = 1.0,
    variant: Literal["text", "vision"] = "text",
    beta: float = 0.0,
    max_tokens: int = 128,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Less weight to groups in which longer answers are not better (ADORA 2025).

    factor       on the advantages of such a group
    full         reward from which an answer is right
    variant      text, or vision: what a group without right, or without wrong, answers counts as
    beta         weight of the KL term towards the starting weights (0: none, and no reference model)
    max_tokens   longest answer, in tokens; wrong answers of nearly that length do not count
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        return method(
            policy, reference=policy.reference() if beta else None, beta=beta, factor=factor, full=full,
            longest=round(0.95 * max_tokens), variant=variant, minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="adora", max_tokens=max_tokens, **options)
