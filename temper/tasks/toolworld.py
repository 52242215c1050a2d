"""A small world to ask about with tools (its tasks: `temper.tasks.toolworld_pool`).

world = World("17")                          # its facts are a function of the name
[t.name for t in world.tools]                # price, stock, owner, age, city, rain, mayor, calculator
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from temper import streams
from temper.tasks.task import Task
from temper.tools.base import Result, Tool
from temper.tools.calculator import compute

THINGS = {
    "item": ("lamp", "cup", "rope", "coin", "drum", "kite", "boat", "ring", "bell", "sofa"),
    "person": ("Anna", "Boris", "Clara", "David", "Erik", "Fiona", "Greta", "Hugo", "Ines", "Jonas"),
    "place": ("Kalo", "Miren", "Torva", "Sudel", "Prano", "Delmi", "Rentor", "Vasu", "Noka", "Lomi"),
}
# domain, tool, about, gives
FACTS = (
    ("shop", "price", "item", "number"),
    ("shop", "stock", "item", "number"),
    ("shop", "owner", "item", "person"),
    ("people", "age", "person", "number"),
    ("people", "city", "person", "place"),
    ("travel", "rain", "place", "number"),
    ("travel", "mayor", "place", "person"),
)
DOMAINS = {name: domain for domain, name, _, _ in FACTS} | {"calculator": "sums"}
GIVES = {name: kind for _, name, _, kind in FACTS} | {"calculator": "number"}


@dataclass(frozen=True)
class Function:
    """A tool that is a function of its arguments. LookupError and ValueError are what it cannot answer.

    tries  values → arguments that a search should try (`temper.envs.distractors.shortcut`)
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., str]
    tries: Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
    own_deadline = True  # it takes no time

    async def __call__(self, **arguments: Any) -> Result:
        try:
            return Result(self.function(**arguments))
        except (LookupError, ValueError, ArithmeticError) as error:
            return Result(f"error: {error.args[0]}", "tool error")


def function(name: str, description: str, argument: str, answer: Callable[[str], str]) -> Function:
    """A tool of one text."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    tries: Any = sums if argument == "expression" else lambda values: [{argument: v} for v in values]
    return Function(name, description, parameters, lambda **given: answer(given[argument]), tries)


def sums(values: Sequence[str]) -> list[dict[str, Any]]:
    """Every sum, difference and product of two numbers."""
    numbers = [v for v in values if v.isdigit()]
    pairs = [*permutations(numbers, 2), *((n, n) for n in numbers)]
    return [{"expression": f"{a}{op}{b}"} for a, b in pairs for op in "+-*"]


class World:
    """Facts about THINGS, and the tools that tell them. The same name gives the same facts."""

    def __init__(self, name: str):
        self.name = name

    @property
    def tools(self) -> list[Function]:
        facts = [self.fact(name, about, GIVES[name]) for _, name, about, _ in FACTS]
        return [*facts, function("calculator", "Evaluate an arithmetic expression.", "expression", _computed)]

    @property
    def lookalikes(self) -> list[Function]:
        """Tools that sound as those of the world and tell something else."""
        return [
            self.fact(f"old_{name}", about, kind, f"{name.capitalize()} years ago.") for _, name, about, kind in FACTS
        ]

    def fact(self, name: str, about: str, gives: str, description: str = "") -> Function:
        def tell(thing: str) -> str:
            if thing not in THINGS[about]:
                raise LookupError(f"no such {about}")
            key = streams.key(0, "world", self.name, name, thing)
            return str(2 + key % 98) if gives == "number" else THINGS[gives][key % len(THINGS[gives])]

        return function(name, description or f"{name.capitalize()} of this {about}.", about, tell)


def _computed(expression: str) -> str:
    return str(compute(expression))


def tools_of(task: Task) -> list[Tool]:
    """The tools that the oracle of a task of this file uses, in the world of the task."""
    used = {step["name"] for step in task.info["oracle"]}
    return [t for t in World(task.info["world"]).tools if t.name in used]


def distractors_of(task: Task) -> list[Tool]:
    """Other tools of its world, and lookalikes."""
    world = World(task.info["world"])
    return [*world.tools, *world.lookalikes]
