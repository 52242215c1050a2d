"""FiberPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.fiberpo import fiberpo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def fiberpo(
    trajectory: float = 0.1,
    width: float = 0.2,
    group: float | None = None,
    beyond: Literal["turn", "clamp"] = "turn",
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """A probability ratio gated at several scales (FiberPO 2026).

    trajectory   how far an answer's mean log-ratio may drift before it is held back
    width        how far a token's log-ratio may lie from its answer's mean
    group        how far a group's mean log-ratio may drift (default: without this scale)
    beyond       turn: the ratio turns back beyond the first and last of these; clamp: it stays
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy, trajectory=trajectory, width=width, group=group, beyond=beyond, minibatches=minibatches
        ),
        name="fiberpo",
        **options,
    )
