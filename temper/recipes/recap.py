"""Several rewards weighted by how they move, and sources in equal shares."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.recap import recap as method
from temper.recipe import extends
from temper.recipes.common import SUITE, default_reward, post_train
from temper.rewards.load import rewards_from
from temper.run import Run


@extends(post_train, without=("method", "name"))
def recap(
    window: int = 5,
    balance: float = 5.0,
    data: str = SUITE,
    reward: tuple[str, ...] = (),
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """What stalls or swings gets more weight, what is learned less (RECAP 2025).

    window       steps that a reward's mean and deviation are taken over
    balance      temperature of the weights: large for even ones
    reward       FILE.py:function, package.module:function or a bundled name: the objectives
    minibatches  optimiser steps on each batch
    """
    given = reward or (*default_reward(data, data == SUITE), "think_format")
    names = tuple(r.name for r in rewards_from(given))
    return post_train(
        lambda policy: method(policy, parts=names, window=window, temperature=balance, minibatches=minibatches),
        name="recap", data=data, reward=given, **options,
    )  # fmt: skip
