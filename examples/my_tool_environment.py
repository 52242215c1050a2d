"""A tool environment in one file: questions about places that nobody knows, and a register to look them up in.

    temper run examples/my_tool_environment.py --steps 10

A tool is a name, a description, a JSON schema and a call. `ToolUse` plays: it shows the tool, runs calls within a
deadline, shows results, and stops at an answer. A function judges, and sees the calls as well.
"""

from random import Random
from typing import Any, ClassVar

from temper.envs.tools import ToolUse
from temper.methods.objectives.grpo import grpo
from temper.parts.rewards import Rewards
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.run import Run
from temper.tasks.task import Task
from temper.tools.base import Result, Toolbox

SYLLABLES = ("ka", "lo", "mi", "ren", "tor", "va")


class Register:
    """What it says changes with the seed, so it cannot be learned by heart."""

    name = "search"
    description = "Look up a fact."
    parameters: ClassVar = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}

    def __init__(self, facts: dict[str, str]):
        self.facts = facts

    async def __call__(self, query: str) -> Result:
        found = self.facts.get(query.strip().lower())
        return Result(found) if found else Result(f"nothing about {query!r}", "tool error")


def right(completion: str, answer: str, calls: list[dict[str, Any]]) -> float:
    """1 for the fact, less 0.1 for every call after the first."""
    return float(answer in completion) - 0.1 * max(0, len(calls) - 1)


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def my_tool_environment(facts: int = 400, turns: int = 3, seed: int = 0, **options: Any) -> Run:
    """GRPO on questions that need the register: how many facts there are, and turns of an attempt."""
    draw = Random(seed)
    name = lambda: "".join(draw.choice(SYLLABLES) for _ in range(3)).capitalize()  # noqa: E731
    known = {f"{thing} of {name()}".lower(): name() for thing in ("capital", "river") for _ in range(facts // 2)}
    tasks = [Task(q, f"What is the {q}?", a, source="register") for q, a in known.items()]
    return train_on(
        lambda policy: grpo(policy, beta=0.0),
        name="register", train=tasks[len(tasks) // 5 :], held_out=tasks[: len(tasks) // 5],
        env=ToolUse(Toolbox([Register(known)]), turns=turns), judges=[Rewards([right])], seed=seed, **options,
    )  # fmt: skip
