"""GDPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.gdpo import gdpo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.rewards.load import reward_from
from temper.run import Run


@extends(post_train, without=("method", "name"))
def gdpo(
    reward: tuple[str, ...] = ("reasoning_gym", "think_format"),
    weights: tuple[float, ...] | None = None,
    clip: float = 0.2,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Several rewards, each normalised in its group before they are added up (Liu et al. 2026).

    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """
    shares = dict(zip((reward_from(r).name for r in reward), weights or [1.0] * len(reward)))
    return post_train(
        lambda policy: method(policy, weights=shares, clip=clip, minibatches=minibatches),
        name="gdpo", reward=reward, weights=weights, **options,
    )  # fmt: skip
