"""Training on an improvement operator: drafts in parallel, a workspace, a refinement; half of the tasks stay plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from temper.envs.refine import Distil, Refine
from temper.envs.single import SingleTurn
from temper.methods.rollouts.pdr_improvement_operator import OPERATOR
from temper.methods.rollouts.pdr_improvement_operator import pdr_improvement_operator as method
from temper.parts.curricula import Mixture, Shuffled
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run
from temper.tasks.task import Task


@extends(post_train, without=("method", "name", "system", "prefill"))
def pdr_improvement_operator(
    drafts: tuple[int, ...] = (4,),
    distil: Distil = "all",
    keep: int = 2,
    room: int = 64,
    share: float = 0.5,
    train_drafts: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    alpha: float = 0.1,
    minibatches: int = 1,
    steps: int = 30,
    groups: int = 16,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 64,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Half plain answers, half refinements of the model's own drafts (2025); evaluated both ways.

    drafts        of every round before the refinement
    distil        what of them goes into the workspace
    keep          drafts in it, where some are chosen; room: most tokens of it (the paper's κ)
    share         of the tasks that go through the operator (0: plain RL)
    train_drafts  drafts are trained too, compared with one another
    clip_low      range of the weight below 1; clip_high: above 1
    alpha         weight of the imitation of right answers
    minibatches   optimiser steps on each batch (the paper: 4)
    groups        tasks in a step (the paper: 32)
    attempts      answers to each task, compared with one another (the paper: 32)
    lr            peak learning rate
    max_tokens    longest answer or draft, in tokens
    seed          of everything that is drawn
    """
    env = Refine(drafts, distil, keep, room, train_drafts=train_drafts)
    run = post_train(
        lambda policy: method(
            policy, env=env, clip_low=clip_low, clip_high=clip_high, alpha=alpha, minibatches=minibatches
        ),
        name="pdr-improvement-operator", steps=steps, groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens,
        seed=seed, **options,
    )  # fmt: skip
    plain = run.curriculum
    assert isinstance(plain, Shuffled)
    operated = Shuffled(Through(plain.tasks), attempts, seed + 1)
    run.curriculum = Mixture([(w, c) for w, c in ((1 - share, plain), (share, operated)) if w > 0])
    answers = [replace(p, env=SingleTurn()) for p in run.probes]
    run.probes = [*answers, *(replace(p, env=env, name="refined") for p in answers)]
    return run


@dataclass
class Through(Sequence[Task]):
    """The same tasks, through the operator."""

    tasks: Sequence[Task]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, k: Any) -> Any:
        task = self.tasks[k]
        return replace(task, id=f"{task.id}/{OPERATOR}", info={**task.info, "env": OPERATOR})
