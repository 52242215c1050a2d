"""RL-PLUS on your own tasks with worked answers, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.rl_plus import rl_plus as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def rl_plus(
    gamma: float = 0.5,
    entropy: float = 1e-3,
    attempts: int = 15,
    max_tokens: int = 128,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """A worked answer in every group, weighted by how unlikely it was (RL-PLUS 2025).

    Tasks need a worked answer: `completion`, `solution` or `messages` of a data row. The others train as without one.

    gamma        how much more unlikely tokens of a worked answer count (0: all alike)
    entropy      weight of the entropy bonus
    attempts     attempts at each task, beside the worked answer
    max_tokens   longest answer, in tokens
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any, judges: Any) -> Any:
        return method(
            policy, judges=judges, gamma=gamma, entropy=entropy, length=max_tokens, minibatches=minibatches
        )  # fmt: skip

    return post_train(make, name="rl-plus", attempts=attempts, max_tokens=max_tokens, **options)
