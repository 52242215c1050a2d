"""Many different solutions of games whose actions are known."""

from __future__ import annotations

from typing import Any, Literal

from temper.envs.flow import Flow, climbs
from temper.methods.objectives.flow_of_reasoning import flow_of_reasoning as method
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.run import Run

OURS = (  # a flow is the policy's own distribution, one token at a time
    "method", "name", "train", "held_out", "judges", "env", "temperature", "top_p", "top_k", "max_tokens",
)  # fmt: skip


@extends(train_on, without=OURS)
def flow_of_reasoning(
    form: Literal["vargrad", "logz"] = "vargrad",
    parts: tuple[int, ...] = (2, 3),
    goals: tuple[int, ...] = (4, 5, 6, 7),
    held_out: tuple[int, ...] = (8,),
    noisy: int = 4,
    search: int = 16,
    prior: float = 0.0,
    steps: int = 60,
    groups: int = 8,
    attempts: int = 4,
    lr: float = 5e-4,
    minibatches: int = 1,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Games end where the reward is, in proportion to it (Flow of Reasoning, Yu et al. 2024).

    form         vargrad: the variance over a task's plays; logz: with a learned number for all tasks
    parts        most that one addition may add, of the bundled game: reach a goal by small additions
    goals        of training; held_out: of evaluation
    noisy        plays of each task in a step that explore
    search       neighbours of the best play that are tried
    prior        weight of the starting model's surprise in the reward (0: none, and no reference model)
    attempts     plays of each task in a step by the policy itself
    minibatches  optimiser steps on each batch
    seed         of everything that is drawn
    """

    def make(policy: Any) -> Any:
        return method(
            policy, env=Flow(), form=form, half=max(1, steps // 2), noisy=noisy, search=search, prior=prior,
            reference=policy.reference() if prior else None, seed=seed, minibatches=minibatches,
        )  # fmt: skip

    return train_on(
        make, name="flow-of-reasoning", train=climbs(parts, goals), held_out=climbs(parts, held_out), steps=steps,
        groups=groups, attempts=attempts, lr=lr, seed=seed, **options,
    )  # fmt: skip
