"""Tasks of the tool world that need several calls, made by growing a pool of checked ones.

    tasks = grow(200, seed=0)                    # "What is the age of the owner of lamp?", with oracle and answer

A few tasks share a world (info["world"]); there are many worlds, so that answers cannot be learned by heart.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper import streams
from temper.errors import UserError
from temper.tasks.task import Task
from temper.tasks.toolworld import DOMAINS, THINGS, World
from temper.tools.base import Call, Tool, Toolbox
from temper.tools.schema import complaint

EACH = 4  # tasks of one world


@dataclass(frozen=True)
class Draft:
    """A question that may become a task: what it asks for, and the calls that find it."""

    phrase: str
    oracle: tuple[dict[str, Any], ...]
    subject: dict[str, str]

    def about(self, name: str, argument: str, value: str) -> Draft:
        """One more call, about what the last one found."""
        n = len(self.oracle)
        call = {"name": name, "arguments": {argument: value}, "after": [n - 1] if n else []}
        return Draft(f"the {name} of {self.phrase}", (*self.oracle, call), self.subject)

    def plus(self, other: Draft, value: str) -> Draft:
        """The sum of two."""
        n, m = len(self.oracle), len(other.oracle)
        moved = [{**c, "after": [k + n for k in c["after"]]} for c in other.oracle]
        call = {"name": "calculator", "arguments": {"expression": value}, "after": [n - 1, n + m - 1]}
        return Draft(f"{self.phrase} plus {other.phrase}", (*self.oracle, *moved, call), self.subject)


@dataclass
class Pool:
    """Accepted drafts of one world, and why others were not."""

    world: World
    accepted: list[tuple[Draft, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    async def offer(self, draft: Draft) -> None:
        level, answer = await validate(draft, self.world.tools)
        if level:
            self.refused[level] += 1
        elif all(draft.phrase != d.phrase for d, _ in self.accepted):
            self.accepted.append((draft, answer))


async def validate(draft: Draft, tools: Sequence[Tool]) -> tuple[str, str]:
    """(the level that refuses it, answer): "schema", "execution", "dependency" or "answer"; empty when it is valid."""
    box, results = Toolbox(tools), list[str]()
    for n, step in enumerate(draft.oracle):
        tool = box.tools.get(step["name"])
        if tool is None or complaint(step["arguments"], tool.parameters):
            return "schema", ""
        first, again = [await box.run(Call(step["name"], step["arguments"])) for _ in range(2)]
        if first.outcome != "ok" or first != again:
            return "execution", ""
        given = set(re.findall(r"\w+", " ".join(map(str, step["arguments"].values()))))
        if any(k >= n or results[k] not in given for k in step["after"]):
            return "dependency", ""
        if not step["after"] and not given <= set(draft.phrase.split()):
            return "dependency", ""
        results.append(first.text)
    used = {k for step in draft.oracle for k in step["after"]}
    twice = any(step in draft.oracle[:n] for n, step in enumerate(draft.oracle))
    if results[-1] in draft.phrase.split() or twice or used != set(range(len(results) - 1)):
        return "answer", ""  # it can be read off the question, or a call is made for nothing
    return "", results[-1]


async def grown(world: World, rounds: int, longest: int, seed: int) -> Pool:
    """A pool of drafts: one call each at first, then each round a question about an accepted one's answer, or a sum.

    What is proposed is drawn without regard to whether it makes sense; what does not is refused by `validate`.
    """
    pool, rng = Pool(world), streams.generator(seed, "grow", world.name)
    tools = [t for t in world.tools if t.name != "calculator"]
    for _ in range(rounds):
        kind = str(rng.choice(list(THINGS)))
        thing, tool = str(rng.choice(THINGS[kind])), tools[int(rng.integers(len(tools)))]
        argument = next(iter(tool.parameters["properties"]))
        await pool.offer(Draft(thing, (), {"text": thing, "kind": kind}).about(tool.name, argument, thing))
        if not pool.accepted:
            continue
        (old, found), (other, second) = [pool.accepted[int(k)] for k in rng.integers(len(pool.accepted), size=2)]
        if len(old.oracle) < longest:
            await pool.offer(old.about(tool.name, argument, found))
        if len(old.oracle) + len(other.oracle) < longest:
            await pool.offer(old.plus(other, f"{found}+{second}"))
    return pool


def grow(n: int, seed: int = 0, longest: int = 2, rounds: int = 12) -> list[Task]:
    """n tasks of at most `longest` calls, EACH of one world, as evenly over their numbers of calls as
    the pools allow. Source: "calls-N"."""
    if n < 1 or longest < 1:
        raise UserError(f"tasks and calls must be at least 1, got {n} and {longest}")
    return asyncio.run(_tasks(n, seed, longest, rounds))


async def _tasks(n: int, seed: int, longest: int, rounds: int) -> list[Task]:
    tasks: list[Task] = []
    world = 0
    while len(tasks) < n:
        name = f"{seed}/{world}"
        left = (await grown(World(name), rounds, longest, seed)).accepted
        for k in range(EACH):
            wanted = [d for d in left if len(d[0].oracle) == 1 + len(tasks) % longest]
            if wanted and len(tasks) < n:
                drawn = wanted[int(streams.generator(seed, "task", name, k).integers(len(wanted)))]
                left = [d for d in left if d is not drawn]
                tasks.append(as_task(f"{name}/{k}", name, *drawn))
        world += 1
    return tasks


def as_task(name: str, world: str, draft: Draft, answer: str) -> Task:
    """The draft as a task."""
    oracle = [dict(c) for c in draft.oracle]
    info = {"world": world, "oracle": oracle, "subject": dict(draft.subject), "domains": domains(oracle)}
    return Task(f"toolworld/{name}", f"What is {draft.phrase}?", answer, f"calls-{len(oracle)}", info)


def domains(oracle: Sequence[Mapping[str, Any]]) -> list[str]:
    """The domains that the calls belong to."""
    return sorted({DOMAINS[step["name"]] for step in oracle})
