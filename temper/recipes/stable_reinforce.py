"""StableReinforce on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.stable_reinforce import stable_reinforce as method
from temper.methods.objectives.stable_reinforce import thought_agrees
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def stable_reinforce(
    beta: float = 0.0,
    bound: float = 1e3,
    outlier: float = 3.0,
    consistency: bool = True,
    groups: int = 128,
    attempts: int = 2,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """REINFORCE++ with a clamped log-ratio and without outliers (R1-Reward 2025).

    beta         weight of the KL to the starting weights, in the reward (0: none; the paper: 0.001)
    bound        of the probability ratio, before it is clipped
    outlier      advantages beyond so many standard deviations do not count
    consistency  answers are also rewarded for their form, and for reasoning that supports them
    groups       tasks in a step
    attempts     attempts at each task (the paper makes one)
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        return method(
            policy, reference=policy.reference() if beta else None, beta=beta, bound=bound, outlier=outlier,
            judge=thought_agrees if consistency else None, minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="stable-reinforce", groups=groups, attempts=attempts, **options)
