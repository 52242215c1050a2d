"""Distinct attempts only on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.dagrpo import dagrpo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def dagrpo(
    delta: float = 0.1,
    anchors: bool = True,
    gamma: float = 0.5,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Attempts that hardly differ from those of the other verdict do not count (DaGRPO 2025).

    delta        difference in the fine-grained score from which two attempts are distinct
    anchors      a worked answer joins where all attempts fail
    gamma        how much more unlikely tokens of a worked answer count
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy, judges: method(
            policy, judges=judges, delta=delta, anchors=anchors, gamma=gamma, minibatches=minibatches
        ),
        name="dagrpo",
        **options,
    )
