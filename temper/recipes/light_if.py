"""Entropy-preserving imitation, then RL with an entropy bonus for each token."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from temper.methods.objectives.light_if import entropy_sft
from temper.methods.objectives.light_if import light_if as method
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train, tasks_for
from temper.recipes.imitation import taught
from temper.run import Run
from temper.tasks.solutions import solution
from temper.tasks.task import Task


@extends(post_train, without=("method", "name"))
def light_if(
    out: Path = Path("runs/light-if"),
    imitation: int = 20,
    imitation_lr: float = 1e-4,
    share: float = 0.2,
    c: float = 1.0,
    strength: float = 10.0,
    most: float = 5.0,
    beta: float = 0.0,
    model: str = "temper-tiny",
    data: str = SUITE,
    steps: int = 60,
    lr: float = 2e-4,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> list[Run]:
    """Imitate what is hard and sure, then learn with entropy where credit and certainty meet (Light-IF 2025).

    out           directory of the run: RL starts from the model that imitation leaves there
    imitation     steps of imitation before RL (0: none), of tasks that have a worked answer
    imitation_lr  its learning rate
    share         of a batch's tokens that are imitated
    c             how much certainty counts beside difficulty in choosing them
    strength      of the entropy bonus, shared out over an answer's tokens; most: that one token can have
    beta          weight of the KL term towards the starting weights (0: none, and no reference model)
    lr            peak learning rate of RL
    minibatches   optimiser steps on each batch
    """
    shown = [t for t in tasks_for(data, None, 0, seed)[0][:500] if solution(t) is not None] if imitation else []
    phases, model = taught(
        worked, shown, out, model=model, steps=imitation, lr=imitation_lr, seed=seed,
        method=partial(entropy_sft, share=share, c=c), **options,
    )  # fmt: skip

    def make(policy: Any) -> Any:
        return method(
            policy, reference=policy.reference() if beta else None, beta=beta, strength=strength, most=most,
            minibatches=minibatches,
        )  # fmt: skip

    return [
        *phases,
        post_train(make, name="light-if", model=model, data=data, steps=steps, lr=lr, seed=seed, **options),
    ]


def worked(task: Task, context: str) -> str:
    """What imitation shows: the task's worked answer."""
    return str(solution(task))
