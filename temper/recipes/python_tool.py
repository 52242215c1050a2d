"""What recipes share that teach a model to call Python: demonstrations first (a cold start), then RL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Literal

from temper.envs.tools import ToolUse
from temper.method import Method
from temper.parts.rewards import Rewards
from temper.policy import Policy
from temper.recipe import extends
from temper.recipes.common import tasks_for, train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.recipes.tool_arithmetic import Described, products
from temper.rewards.load import rewards_from
from temper.run import Run
from temper.tasks.skills.tools import PYTHON, call_text
from temper.tasks.task import Task
from temper.tools.base import Tool, Toolbox

PRODUCTS = "products"  # bundled: products of two-digit numbers, which temper-tiny cannot compute in its head
BOXED, TAGGED = "\\boxed{%s}", "<answer>%s</answer>"  # how demonstrations give the answer
RESPONSE = "<tool_response>"  # of temper-tiny's template: a tool has answered


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def with_python(
    method: Callable[[Policy, ToolUse], Method],
    *,
    name: str,
    env: Callable[..., ToolUse] = ToolUse,
    wrap: Callable[[Tool], Tool] = lambda tool: tool,
    answer: str = BOXED,
    out: Path = Path("runs/python"),
    tool: Literal["python", "none"] = "python",
    data: str = PRODUCTS,
    reward: tuple[str, ...] = ("exact_match",),
    eval_data: str | None = None,
    eval_tasks: int = 100,
    system: str | None = None,
    cold_start: int = 8,
    cold_start_lr: float = 1e-3,
    turns: int = 3,
    tokens: int = 0,
    seconds: float = 5.0,
    model: str = "temper-tiny",
    steps: int = 30,
    groups: int = 12,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 64,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """Supervised fine-tuning on demonstrations of the bundled tasks, then RL with a Python interpreter as a tool.

    method: (policy, its environment) → Method; env: (toolbox, turns=, tokens=, system=) → the environment; wrap: what
    is made of the Python tool; answer: how the demonstrations give it, with %s.

    out              directory of the run: RL starts from the model that the cold start leaves there
    tool             python, or none: the arm without a tool, nor calls in its demonstrations, to compare with
    data             "products" (bundled), a file (JSONL, JSON, Parquet) or a Hugging Face data set
    reward           FILE.py:function, package.module:function or a bundled name; several are added up
    eval_data        held-out tasks (default: a fifth of the products, else the last part of data)
    eval_tasks       held-out tasks
    system           a system message before every task: how to call, and how to give the answer
    cold_start       steps of imitation before RL (0: none), for the bundled products only; what a tool says is context
    cold_start_lr    its learning rate
    turns            most turns that the model takes
    tokens           most tokens that it samples in an episode (0: no limit)
    seconds          wall time of one piece of code
    groups           tasks in a step
    attempts         answers to each task, compared with one another
    lr               peak learning rate of RL
    max_tokens       longest turn, in tokens
    """
    bundled = data == PRODUCTS
    train, held_out = products() if bundled else tasks_for(data, eval_data, eval_tasks, seed)[:2]
    box = Toolbox([wrap(interpreter(seconds, bundled))] if tool == "python" else [])
    play = env(box, turns=turns, tokens=tokens, system=system)
    phases = []
    if bundled and cold_start:
        shown = Arithmetic(answer, tool == "python")
        phases.append(
            imitate(play, shown, train, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options)
        )
        model = left_by(out)
    rl = train_on(
        lambda policy: method(policy, play), name=name, train=train, held_out=held_out[:eval_tasks], env=play,
        judges=[Rewards(rewards_from(reward))], model=model, steps=steps, groups=groups, attempts=attempts, lr=lr,
        max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    rl.threads = 1 if bundled else 0  # temper-tiny is too small for more
    return [*phases, rl]


class Arithmetic:
    """Says what a demonstration of a product says: code, again where that failed, and the answer when it is printed.

    answer  its form, with %s; calls: False gives the answer at once
    """

    def __init__(self, answer: str, calls: bool):
        self.answer, self.calls = answer, calls

    def __call__(self, task: Task, context: str) -> str:
        if not self.calls or str(task.answer) in context.partition(RESPONSE)[2].rpartition(RESPONSE)[2]:
            return self.answer % task.answer
        expression = str(task.prompt).removeprefix("What is ").rstrip("?").replace(" ", "")
        code = Random(task.id).choice((f"print({expression})", expression))
        return call_text("python", {"code": code})


def interpreter(seconds: float, bundled: bool) -> Tool:
    """The Python tool; for temper-tiny described as it has seen it described."""
    from temper.tools.python import Python

    tool = Python(seconds=seconds)
    return Described(tool, PYTHON) if bundled else tool
