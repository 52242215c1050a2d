"""Answers revised by their tests, with a reward model trained beside the policy: Verilog, circuits, or any answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from temper.envs.revisions import Revisions
from temper.envs.single import SingleTurn
from temper.methods.objectives.raft import raft
from temper.methods.objectives.verirl import verirl as method
from temper.recipe import extends
from temper.recipes.common import SUITE, tasks_for, train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.recipes.light_if import worked
from temper.run import Run
from temper.tasks.solutions import solution

REJECTION = "rejection"


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def verirl(
    data: str = SUITE,
    out: Path = Path("runs/verirl"),
    turns: int = 3,
    labels: Literal["trace-back", "binary"] = "trace-back",
    gamma: float = 0.9,
    mix: float = 0.5,
    balance: bool = True,
    kappa: float = 1.0,
    cold_start: int = 0,
    cold_start_lr: float = 2e-4,
    rounds: int = 0,
    passed: float = 0.8,
    rejection_steps: int = 20,
    eval_tasks: int = 64,
    model: str = "temper-tiny",
    steps: int = 60,
    groups: int = 8,
    attempts: int = 8,
    lr: float = 2e-4,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> list[Run]:
    """Revisions by test results, REINFORCE++ with a reward model (VERIRL 2025). The paper: cold_start, and 1 round.

    Rows with a `testbench` are Verilog (Icarus Verilog must be installed), rows with `cases` are circuits of one output
    (temper.rewards.designs), the others have an answer. The cold start needs worked answers.

    data             tasks, in any form that the recipe grpo takes
    out              directory of the run: each phase starts from the model that the one before leaves there
    turns            attempts at a task in an episode
    labels           of the reward model: by what later revisions pass, or right and wrong alone
    gamma            of a label, for each revision that is needed
    mix              share of the reward model in the reward
    balance          weigh samples by surprise and by distance from the mean reward
    kappa            exponent of surprise in that weight
    cold_start       steps of imitation of worked answers before RL (0: none)
    cold_start_lr    its learning rate
    rounds           how often RL, and imitation of what passes, come before the last RL
    passed           share of tests from which an episode is imitated between
    rejection_steps  steps of that
    eval_tasks       held-out tasks
    groups           tasks in a step
    attempts         episodes of each task
    lr               peak learning rate after the cold start
    minibatches      optimiser steps on each batch
    """
    train, held_out, _ = tasks_for(data, None, eval_tasks, seed)
    phases: list[Run] = []

    def left() -> str:
        return left_by(out, phases[-1].name, len(phases)) if phases else model

    if cold_start:
        shown = [t for t in train[:500] if solution(t) is not None]
        phases.append(
            imitate(SingleTurn(), worked, shown, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options)
        )
    shared: dict[str, Any] = {
        "train": train,
        "held_out": held_out,
        "groups": groups,
        "attempts": attempts,
        "lr": lr,
        "seed": seed,
        **options,
    }

    def learn(policy: Any) -> Any:
        judge = replace(policy, name="reward_model", engine="local", drafts=None)
        return method(
            policy, reward_model=judge, env=Revisions(turns=turns), labels=labels, gamma=gamma, mix=mix,
            balance=balance, kappa=kappa, minibatches=minibatches,
        )  # fmt: skip

    def imitate_passing(policy: Any) -> Any:
        return raft(policy, threshold=passed)

    for _ in range(rounds):
        phases.append(train_on(learn, name="verirl", model=left(), steps=steps, **shared))
        own: dict[str, Any] = {"name": REJECTION, "model": left(), "steps": rejection_steps}
        phases.append(train_on(imitate_passing, env=Revisions(turns=turns), **own, **shared))
    return [*phases, train_on(learn, name="verirl", model=left(), steps=steps, **shared)]
