"""A planner and a coder, each with half of a problem, under one policy or two."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Literal

from temper.envs.reflective import Executor, ReflectiveCode
from temper.envs.workflow import Desk, Workflow
from temper.errors import UserError
from temper.method import Method
from temper.methods.environments.unitymas_o import reflective_code
from temper.methods.environments.unitymas_o import unitymas_o as method
from temper.objective import Update
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.run import Run
from temper.tasks.data import load_tasks
from temper.tasks.suites import is_held_out
from temper.tasks.task import Task

ASK = "State the final answer to the following arithmetic problem: {} ="  # as temper-tiny has seen it
ROLES = ("planner", "coder")


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def unitymas_o(
    policies: Literal["shared", "separate", "frozen"] = "shared",
    code: str = "",
    turns: int = 3,
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
    lr: float = 5e-4,
    max_tokens: int = 48,
    eval_tasks: int = 100,
    **options: Any,
) -> Run:
    """UnityMAS-O (2026) on sums in two halves: the planner sees the first and writes a plan, the coder has the second.

    policies       one for all roles, one for each, or a planner that stays as it is and another for the other roles
    code           a file of programming tasks (prompt, tests: [[expression, expected], …]) instead: planner, coder and
                   reflector write programs, which the Python sandbox runs
    turns          most turns of these
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

    def make(policy: Any, roles: tuple[str, ...]) -> Method:
        return method(
            policy, roles=roles, estimator=estimator, clip=clip, gamma=gamma, lam=lam, value_clip=value_clip,
            value_coef=value_coef, epochs=epochs, minibatches=minibatches,
        )  # fmt: skip

    env: Workflow = Workflow(pair, reflective_code, ROLES, format_weight)
    train, held_out = halves()
    if code:
        env = ReflectiveCode(Executor(), reflective_code, turns, format_weight)
        train, held_out = programs(code, eval_tasks)
    run = train_on(
        partial(make, roles=env.roles), name="unitymas-o", train=train, held_out=held_out[:eval_tasks], env=env,
        steps=steps, groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens, **options,
    )  # fmt: skip
    for probe in run.probes:
        probe.role = "coder"  # of the first turn, where there are several
    if policies != "shared":
        owners = {role: policies == "separate" or role == "planner" for role in env.roles}
        deal(run, owners, make, frozen="planner" if policies == "frozen" else "")
    if not code:
        run.threads = 1  # the model is too small for more
    run.check()
    return run


def deal(run: Run, alone: Mapping[str, bool], make: Callable[..., Method], frozen: str) -> None:
    """Give every role that is `alone` a policy of its own, and the others the one that the run has."""
    first = run.roles["coder"]
    mine = tuple(role for role, own in alone.items() if not own)
    owned = {r: replace(copy.deepcopy(first), name=r, trainable=r != frozen) for r, own in alone.items() if own}
    run.roles = {role: owned.get(role, first) for role in alone}
    players = [(p, (r,)) for r, p in owned.items() if p.trainable] + ([(first, mine)] if mine else [])
    made = [(policy, roles, make(policy, roles)) for policy, roles in players]
    run.on_batch = [stage for *_, m in made for stage in m.on_batch]
    run.updates = [Update(policy, m.terms, m.epochs, m.minibatches, roles=roles) for policy, roles, m in made]


def programs(path: str, eval_tasks: int) -> tuple[list[Task], list[Task]]:
    """(for training, held out) of a file: the last `eval_tasks`, at most a fifth, are never trained on."""
    tasks = list(load_tasks(path))
    if bare := next((t for t in tasks if not t.info.get("tests")), None):
        raise UserError(f"{path}: task {bare.id!r} has no tests: [[expression, expected], …]")
    cut = len(tasks) - min(eval_tasks, len(tasks) // 5)
    return tasks[:cut], tasks[cut:]


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
