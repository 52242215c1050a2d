"""COVERT: tools whose results are noisy, reformatted or fail, questions that are indirect, tools that only distract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from temper.envs.distractors import Distractors
from temper.envs.scenes import Mix, Scenes, says
from temper.envs.tools import ToolUse
from temper.envs.transforms import Failing, Formatted, Indirect, Noisy, Reworded
from temper.errors import UserError
from temper.methods.environments.covert import covert as method
from temper.objective import token_mean
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.rewards.load import reward_from
from temper.run import Run
from temper.tasks.task import Task
from temper.tasks.toolworld import distractors_of, tools_of
from temper.tasks.toolworld_pool import grow
from temper.tools.base import Tool

Tools = Callable[[Task], Sequence[Tool]]
UNSEEN = Mix(
    (
        Noisy(("-- log --", "status 200", "took 31 ms")),
        Formatted(("list", "table", "sentence")),
        Failing(("error: unavailable",)),
    ),
    share=0.7,
)


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def covert(
    out: Path = Path("runs/covert"),
    tasks: str = "",
    tools: str = "",
    distractors: str = "",
    share: float = 0.3,
    extra: int = 2,
    turns: int = 6,
    calls: int = 1,
    cold_start: int = 40,
    cold_start_lr: float = 2e-3,
    model: str = "temper-tiny",
    steps: int = 20,
    groups: int = 8,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 48,
    eval_tasks: int = 48,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """GRPO on tasks with oracle calls, in environments that are made harder without changing these.

    out         directory of the run: RL starts from the model that the cold start leaves there
    tasks       a file of rows with prompt, answer and oracle = [{"name", "arguments", "after"}] (default: the bundled
                world, grown from a pool of checked tasks); it may have subject, writes and behaviour
    tools       FILE.py:function, task → the tools that its oracle uses; needed with tasks
    distractors  FILE.py:function, task → tools of which some are offered besides (the search that keeps out those which
                solve the task calls them), for tasks of your own
    share       of tasks that each transform is applied to (0: the environment as it is, for comparison)
    extra       most calls beside the oracle's
    turns       most turns that the model takes
    calls       most calls that a bundled task's oracle makes
    cold_start  steps of imitation of the oracle before RL, where tools fail or distract and questions are reworded, but
                results are as they are (0: none); bundled tasks only
    cold_start_lr  its learning rate
    groups      tasks in a step
    attempts    answers to each task, compared with one another
    lr          peak learning rate
    max_tokens  longest turn, in tokens
    eval_tasks  held-out tasks, each as it is ("clean") and with noise, formats and errors never trained on ("unseen")
    seed        of everything that is drawn
    """
    own = bool(tasks or tools)
    train, held_out, found = given(tasks, tools, eval_tasks) if own else bundled(calls, eval_tasks)
    pool: Tools | None = distractors_of
    if own:
        pool = reward_from(distractors).function if distractors else None
    mixes = {"": Mix(transforms(pool), share), "clean": Mix(), "unseen": UNSEEN}
    env, phases = Scenes(found, mixes, ToolUse(turns=turns), seed), []
    if cold_start and not own:
        shown = Scenes(found, {"": Mix(shown_first(), 0.5)}, ToolUse(turns=turns), seed)
        phases.append(
            imitate(shown, says, train, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options)
        )
        model = left_by(out)
    run = train_on(
        lambda policy: method(policy, env=env, extra=extra, per=token_mean), name="covert", train=train,
        held_out=twice(held_out), model=model, steps=steps, groups=groups, attempts=attempts, lr=lr,
        max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    run.threads = 0 if own else 1  # temper-tiny is too small for more
    return [*phases, run]


def transforms(pool: Tools | None) -> tuple[Any, ...]:
    """Every one; distractors where there are any to choose from."""
    return (*((Distractors(pool),) if pool else ()), Reworded(), Indirect(), Noisy(), Formatted(), Failing())


def shown_first() -> tuple[Any, ...]:
    """What the cold start shows: nothing about the form of results."""
    return (Distractors(distractors_of), Reworded(), Indirect(("message",)), Failing())


def bundled(calls: int, eval_tasks: int) -> tuple[list[Task], list[Task], Tools]:
    """(for training, held out: of other worlds, their tools)."""
    return grow(400, seed=0, longest=calls), grow(eval_tasks, seed=1, longest=calls) if eval_tasks else [], tools_of


def given(tasks: str, tools: str, eval_tasks: int) -> tuple[list[Task], list[Task], Tools]:
    """A user's tasks, the last of them held out, and their tools."""
    from temper.recipes.common import tasks_for

    if not (tasks and tools):
        raise UserError("tasks need their tools, and tools tasks: give --tasks FILE.jsonl and --tools FILE.py:function")
    train, held_out, _ = tasks_for(tasks, None, eval_tasks, 0)
    for task in (*train, *held_out):
        if not isinstance(task.info.get("oracle"), list):
            raise UserError(f"{tasks}: task {task.id!r} has no oracle, a list of calls with name, arguments and after")
    return list(train), list(held_out), reward_from(tools).function


def twice(tasks: Sequence[Task]) -> list[Task]:
    """Every held-out task as it is, and with noise that training never shows."""
    return [
        replace(t, id=f"{t.id}/{mix}", source=mix, info={**t.info, "mix": mix})
        for mix in ("clean", "unseen")
        for t in tasks
    ]
