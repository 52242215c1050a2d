"""GRPO with speculative decoding by a drafter that is trained on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from temper.methods.objectives.grpo import grpo
from temper.methods.rollouts.tlt_adaptive_drafter import tlt_adaptive_drafter as method
from temper.objective import token_mean
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def tlt_adaptive_drafter(
    drafter_lr: float = 1e-3,
    drafter_warmup: int = 10,
    updates: int = 20,
    every: int = 1,
    until: int | None = None,
    window: int = 64,
    rows: int = 32,
    most: int = 6,
    knee: int = 16,
    steps: int = 60,
    groups: int = 4,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 64,
    **options: Any,
) -> Run:
    """GRPO whose answers are guessed ahead by a small network; tokens are those that they are without (2025).

    drafter_lr      learning rate of the drafter (the paper: 1e-6)
    drafter_warmup  optimiser steps in which it is reached (the paper: 1000)
    updates         optimiser steps of the drafter at a time
    every           steps between two times (the paper: 10)
    until           step after which the drafter is left as it is (none: it is trained to the end)
    window          tokens of the answer that the drafter looks back on
    rows            with more answers than these at once nothing is guessed
    most            guesses for an answer in one pass
    knee            tokens that cost as much as a pass itself: 16 on a CPU core, hundreds where memory is the limit
    groups          tasks in a step
    attempts        answers to each task
    lr              peak learning rate of the policy
    max_tokens      longest answer, in tokens
    """

    def make(policy: Any) -> Any:
        drafter = method(
            policy, rows=rows, most=most, knee=knee, window=window, lr=drafter_lr, warmup=drafter_warmup,
            updates=updates, every=every, until=until,
        )  # fmt: skip
        learning = grpo(policy, beta=0.0, per=token_mean)
        return replace(learning, on_batch=[*learning.on_batch, *drafter.on_batch])

    return post_train(
        make, name="tlt-adaptive-drafter", steps=steps, groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens,
        **options,
    )  # fmt: skip
