"""Tools that only distract, and the search which makes sure of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from temper.envs.scenes import Scene
from temper.envs.transforms import Wrapped
from temper.tasks.task import Task
from temper.tools.base import Call, Tool, Toolbox


@dataclass(frozen=True)
class Distractors:
    """Up to `most` further tools, none of which does what a step of the oracle does (found by search).

    pool   task → tools to choose from; the search calls them, so that they must not change anything
    depth  calls in a row that the search tries
    """

    pool: Callable[[Task], Sequence[Tool]]
    most: int = 2
    depth: int = 2

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        pool = [t for t in self.pool(scene.task) if t.name not in {x.name for x in scene.tools}]
        chosen: list[Tool] = []
        for k in rng.permutation(len(pool)):
            if len(chosen) == self.most:
                break
            if await shortcut(scene, [*chosen, pool[int(k)]], self.depth) is None:
                chosen.append(pool[int(k)])
        tools = [*scene.tools, *chosen]
        return replace(scene, tools=tuple(tools[int(k)] for k in rng.permutation(len(tools))))


async def shortcut(scene: Scene, tools: Sequence[Tool], depth: int = 2) -> list[Call] | None:
    """Calls of `tools` alone that give what a step of the oracle gives, from the question's words and the results of
    the steps before it; None when there are none of at most `depth` calls. Exhaustive over those arguments.

    A tool's `tries(values)` says which arguments to try; without it, every value for every parameter.
    """
    known = _words(scene.task)
    plain = Toolbox([_unwrapped(t) for t in scene.tools])
    async with plain.episode() as own, Toolbox(tools).episode() as others:
        for step in scene.oracle:
            result = (await own.run(Call(step["name"], step["arguments"]))).text
            if result not in known and (found := await _reach(result, known, others, depth)) is not None:
                return found
            known = [*known, result]
    return None


def _unwrapped(tool: Tool) -> Tool:
    while isinstance(tool, Wrapped):
        tool = tool.tool
    return tool


async def _reach(target: str, known: Sequence[str], box: Toolbox, depth: int) -> list[Call] | None:
    ways: dict[str, list[Call]] = {v: [] for v in known}
    for _ in range(depth):
        fresh: dict[str, list[Call]] = {}
        for tool in box.tools.values():
            for arguments in _tries(tool, list(ways)):
                call = Call(tool.name, arguments)
                result = await box.run(call)
                if result.outcome == "ok" and result.text not in ways:
                    before = [c for v in arguments.values() for c in ways.get(str(v), [])]
                    fresh.setdefault(result.text, [*before, call])
        ways |= fresh
        if target in ways:
            return ways[target]
    return None


def _tries(tool: Any, values: list[str]) -> list[dict[str, Any]]:
    if hasattr(tool, "tries"):
        return list(tool.tries(values))
    names = list(tool.parameters.get("properties", {}))
    return [dict(zip(names, each)) for each in product(values, repeat=len(names))]


def _words(task: Task) -> list[str]:
    """The words of the conversation, and what it is about."""
    text = " ".join(str(m["content"]) for m in task.messages)
    words = [w.strip(".,:;?!\"'()") for w in text.split()]
    subject = task.info.get("subject") or {}
    return list(dict.fromkeys([w for w in words if w] + ([str(subject["text"])] if subject else [])))
