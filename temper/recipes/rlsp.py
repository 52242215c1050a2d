"""Exploration is rewarded beside correctness, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.rlsp import rlsp as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def rlsp(
    beta: float = 0.0,
    scale: float = 1.0,
    cap: float = 0.5,
    normalise: bool = True,
    freeze: int = 4,
    epochs: int = 1,
    minibatches: int = 4,
    **options: Any,
) -> Run:
    """PPO with a reward for longer thinking, whatever it leads to (RLSP, Ye et al. 2025).

    beta         weight of the KL to the starting weights, in the reward (0: none; the paper: 0.05)
    scale        taken off the reward, over a quarter of the characters of the thinking (the paper: 1000)
    cap          the most that is taken off
    normalise    rewards by their running mean and deviation
    freeze       optimiser steps in which only the critic learns
    epochs       passes over each batch
    minibatches  optimiser steps in each pass
    """

    def make(policy: Any) -> Any:
        return method(
            policy, reference=policy.reference() if beta else None, beta=beta, scale=scale, cap=cap,
            normalise=normalise, freeze=freeze, epochs=epochs, minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="rlsp", **options)
