"""A planner and a coder, each with half of a problem, under one policy or two."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from random import Random
from typing import Any, Literal

from temper.envs.workflow import Desk, Workflow
from temper.methods.environments.unitymas_o import reflective_code
from temper.methods.environments.unitymas_o import unitymas_o as method
from temper.objective import Update
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.run import Run
from temper.tasks.suites import is_held_out
from temper.tasks.task import Task

ASK = "State the final answer to the following arithmetic problem: {} ="  # as temper-tiny has seen it
ROLES = ("planner", "coder")


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def unitymas_o(
    planner: Literal["shared", "separate", "frozen"] = "shared",
    estimator: Literal["gae", "group"] = "gae",
    format_weight: float = 1.0,
    clip: float = 0.2,
    gamma: float = 1.0,
    lam: float = 1.0,
    value_clip: float | None = 0.5,
    value_coef: float = 0.1,
    epochs: int = 1,
    minibatches: int = 1,
    steps: int = 40,
    groups: int = 16,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 48,
    eval_tasks: int = 100,
    **options: Any,
) -> Run:
    """UnityMAS-O (2026) on sums in two halves: the planner sees the first and writes a plan, the coder has the second.

    planner        one policy for both roles, one for each, or a planner that stays as it is
    estimator      a critic with GAE for each policy, or the mean of the same role's calls in a request
    format_weight  weight of the penalty for a wrong form
    clip           range of the probability ratio
    gamma          discount a token
    lam            λ of GAE
    value_clip     how far a value may move in an update (none: any way)
    value_coef     weight of the critic's loss
    epochs         passes over each batch
    minibatches    optimiser steps in each pass
    groups         problems in a step
    attempts       workflows on each problem
    lr             peak learning rate
    max_tokens     longest answer of a role, in tokens
    eval_tasks     held-out problems
    """
    train, held_out = halves()
    mine = ("coder",) if planner != "shared" else ROLES

    def make(policy: Any, roles: tuple[str, ...] = mine) -> Any:
        return method(
            policy, roles=roles, estimator=estimator, clip=clip, gamma=gamma, lam=lam, value_clip=value_clip,
            value_coef=value_coef, epochs=epochs, minibatches=minibatches,
        )  # fmt: skip

    run = train_on(
        make, name="unitymas-o", train=train, held_out=held_out[:eval_tasks],
        env=Workflow(pair, reflective_code, ROLES, format_weight), steps=steps, groups=groups, attempts=attempts, lr=lr,
        max_tokens=max_tokens, **options,
    )  # fmt: skip
    for probe in run.probes:
        probe.role = "coder"  # whose reward is the workflow's
    run.updates[0].roles = mine
    if planner != "shared":
        first = replace(copy.deepcopy(run.roles["coder"]), name="planner", trainable=planner == "separate")
        run.roles = {"planner": first, "coder": run.roles["coder"]}
    if planner == "separate":
        m = make(first, ("planner",))
        run.on_batch = [*run.on_batch, *m.on_batch]
        run.updates.append(Update(first, m.terms, m.epochs, m.minibatches, roles=("planner",)))
    run.threads = 1  # the model is too small for more
    run.check()
    return run


async def pair(task: Task, desk: Desk) -> None:
    """The planner works on the first half; the coder continues from what the planner wrote, which is all that it sees
    of that half."""
    plan = await desk.ask("planner", ASK.format(task.info["first"]), is_number)
    code = await desk.ask("coder", ASK.format(f"{plan.text[:24]} {task.info['second']}"), is_number)
    code.score = float(code.text == task.answer)


def is_number(text: str) -> bool:
    """Whether it is a whole number and nothing else."""
    return re.fullmatch(r"-?\d+", text) is not None


def halves(n: int = 4000) -> tuple[list[Task], list[Task]]:
    """(for training, held out): sums of four one-digit terms, two in each half; a fifth is never trained on."""
    draw, tasks = Random(0), dict[str, Task]()
    while len(tasks) < n:
        a, b, c, d = (draw.randint(1, 9) for _ in range(4))
        first, second = f"{a} {'+-'[draw.randrange(2)]} {b}", f"{'+-'[draw.randrange(2)]} {c} + {d}"
        prompt = f"{first} {second}"
        answer = str(sum(int(x) for x in re.sub(r"([+-]) ", r"\1", prompt).split()))
        tasks[prompt] = Task(f"halves/{prompt}", prompt, answer, "halves", {"first": first, "second": second})
    out = {p: is_held_out(p) for p in tasks}
    return [t for p, t in tasks.items() if not out[p]], [t for p, t in tasks.items() if out[p]]
