"""The main job: GRPO of the bundled model on reasoning-gym tasks, on a laptop, in three minutes."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.grpo import grpo
from temper.objective import token_mean
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name", "data", "reward", "weights", "eval_data"))
def quickstart(
    steps: int = 60,
    groups: int = 20,
    attempts: int = 12,
    lr: float = 3e-4,
    max_tokens: int = 64,
    eval_tasks: int = 280,
    eval_attempts: int = 4,
    eval_every: int = 20,
    save_every: int = 20,
    **options: Any,
) -> Run:
    """Five reasoning-gym tasks are trained on; two more, and fresh questions of the five, are only measured.

    groups       tasks in a step
    attempts     answers to each task, compared with one another
    lr           peak learning rate
    eval_tasks   held-out questions; eval_attempts: answers to each
    eval_every   steps between evaluations
    """
    run = post_train(
        lambda policy: grpo(policy, beta=0.0, clip=0.2, per=token_mean),
        name="quickstart", steps=steps, groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens,
        eval_tasks=eval_tasks, eval_attempts=eval_attempts, eval_every=eval_every, save_every=save_every, **options,
    )  # fmt: skip
    run.threads = 1  # on a model this small a second thread gains little, and loses much where the cores are busy
    return run
