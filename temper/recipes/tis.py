"""Truncated importance sampling on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.columns import TOKEN, TRAJECTORY
from temper.methods.objectives.tis import tis as method
from temper.parts.ratios import mask, truncate
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def tis(
    cap: float = 2.0,
    level: Literal["token", "trajectory"] = "token",
    cut: Literal["truncate", "mask"] = "truncate",
    normalise: bool = False,
    clip: float = 0.2,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """GRPO corrected for a sampler that differs from the learner (Yao et al. 2025).

    cap          highest weight π_learner/π_sampler
    level        weigh each token by its own ratio, or a trajectory by the product of its tokens'
    cut          what becomes of weights above cap: truncated to it, or set to 0
    normalise    divide the weights by their mean over the batch
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        return method(
            policy, cap=cap, level=TOKEN if level == "token" else TRAJECTORY, cut=mask if cut == "mask" else truncate,
            normalise=normalise, clip=clip, minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="tis", **options)
