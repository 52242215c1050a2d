"""GRPO with a tool: products that the model cannot compute in its head, a calculator, or (the control) none."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

from temper.envs.tools import ToolUse
from temper.methods.objectives.grpo import grpo
from temper.objective import token_mean
from temper.parts.rewards import Rewards
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.rewards.load import reward_from
from temper.run import Run
from temper.tasks.skills.tools import CALCULATOR
from temper.tasks.suites import is_held_out
from temper.tasks.task import Task
from temper.tools.base import Result, Toolbox


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def tool_arithmetic(
    tool: Literal["calculator", "none"] = "calculator",
    turns: int = 3,
    steps: int = 30,
    groups: int = 12,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 64,
    eval_tasks: int = 100,
    **options: Any,
) -> Run:
    """Products of two-digit numbers: call the tool, read its response, answer.

    tool        what may be called; none: the arm without a tool, for comparison
    turns       most turns that the model takes
    groups      tasks in a step
    attempts    answers to each task, compared with one another
    lr          peak learning rate
    max_tokens  longest turn, in tokens
    eval_tasks  held-out products
    """
    train, held_out = products()
    run = train_on(
        lambda policy: grpo(policy, beta=0.0, per=token_mean),
        name="tool-arithmetic", train=train, held_out=held_out[:eval_tasks], env=ToolUse(toolbox(tool), turns=turns),
        judges=[Rewards([reward_from("exact_match")])], steps=steps, groups=groups, attempts=attempts, lr=lr,
        max_tokens=max_tokens, **options,
    )  # fmt: skip
    run.threads = 1  # the model is too small for more
    return run


def products() -> tuple[list[Task], list[Task]]:
    """(for training, held out): every product of two two-digit numbers, a fifth of them never trained on."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    Random(0).shuffle(pairs)
    tasks = [Task(f"product/{a}x{b}", f"What is {a} * {b}?", str(a * b), source="product") for a, b in pairs]
    held_out = [is_held_out(str(t.prompt)) for t in tasks]
    return [t for t, out in zip(tasks, held_out) if not out], [t for t, out in zip(tasks, held_out) if out]


def toolbox(tool: str) -> Toolbox:
    """The tool, described as temper-tiny has seen it described."""
    if tool == "none":
        return Toolbox([])
    from temper.tools.calculator import Calculator

    return Toolbox([Described(Calculator(), CALCULATOR)])


class Described:
    """A tool under another description: `schema` in the "function" form."""

    def __init__(self, tool: Any, schema: dict[str, Any]):
        self._tool = tool
        self.name, self.description = schema["function"]["name"], schema["function"]["description"]
        self.parameters = schema["function"]["parameters"]
        self.cacheable = getattr(tool, "cacheable", True)
        self.own_deadline = getattr(tool, "own_deadline", False)

    async def __call__(self, **arguments: Any) -> Result:
        result: Result = await self._tool(**arguments)
        return result

    def close(self) -> Any:
        return self._tool.close() if hasattr(self._tool, "close") else None
