"""Transforms of a scene (`temper.envs.scenes`) that keep the oracle's calls and the answer.

Another wording, another format of results, noise in them, failures; more tools are in `temper.envs.distractors`. Each
draws from the generator that it is given, and they compose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from temper.envs.scenes import Scene
from temper.errors import UserError
from temper.tools.base import Result, Tool

FORMATS: dict[str, Callable[[str], str]] = {
    "json": lambda r: json.dumps({"result": r}, ensure_ascii=False),
    "xml": lambda r: f"<result>{escape(r)}</result>",
    "field": lambda r: f"result: {r}",
    "list": lambda r: f"- {r}",
    "table": lambda r: f"| result |\n| {r} |",
    "sentence": lambda r: f"The result is {r}.",
}
NOISE = ("[ok]", "note: cached", "5 ms", "v2.1")
ERRORS = ("error: busy, try again", "error: timed out, try again", "error 503")


class Wrapped:
    """A tool with something around its results: `change` what it answers when it does, after `failures` failed calls
    of an episode."""

    def __init__(self, tool: Any, change: Callable[[str], str] = str, failures: int = 0, error: str = ""):
        self.tool, self.change, self.failures, self.error = tool, change, failures, error
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters
        self.cacheable = not failures and getattr(tool, "cacheable", True)
        self.own_deadline = getattr(tool, "own_deadline", False)
        self.left = failures
        self.owned = False  # whether the tool ends with this one

    async def __call__(self, **arguments: Any) -> Result:
        if self.left:
            self.left -= 1
            return Result(self.error, "tool error")
        found = await self.tool(**arguments)
        result = found if isinstance(found, Result) else Result(str(found))
        return Result(self.change(result.text), result.outcome) if result.outcome == "ok" else result

    def fresh(self) -> Wrapped:
        inner = self.tool.fresh() if hasattr(self.tool, "fresh") else self.tool
        new = Wrapped(inner, self.change, self.failures, self.error)
        new.owned = inner is not self.tool
        return new

    def close(self) -> Any:
        return self.tool.close() if self.owned and hasattr(self.tool, "close") else None


def _with_tools(scene: Scene, names: set[str], wrap: Callable[[Tool], Wrapped]) -> Scene:
    return replace(scene, tools=tuple(wrap(t) if t.name in names else t for t in scene.tools))


def _named(scene: Scene) -> set[str]:
    return {t.name for t in scene.tools}


# what is asked --------------------------------------------------------------------------------------------------------


def _asking(scene: Scene, change: Callable[[str], str]) -> Scene:
    """The scene with the last user message changed."""
    messages = scene.task.messages
    n = max(i for i, m in enumerate(messages) if m["role"] == "user")
    messages[n] = {**messages[n], "content": change(str(messages[n]["content"]))}
    return replace(scene, task=replace(scene.task, prompt=messages))


@dataclass(frozen=True)
class Reworded:
    """Another wording around the same question. Each of `wordings` holds {ask}."""

    wordings: tuple[str, ...] = ("Please find out: {ask}", "{ask} I need to know.", "Tell me this. {ask}")

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        wording = self.wordings[int(rng.integers(len(self.wordings)))]
        return _asking(scene, lambda ask: wording.replace("{ask}", ask))


@dataclass(frozen=True)
class Indirect:
    """The question no longer names what it is about (info["subject"] = {"text", "kind"}); the name is recoverable.

    where  "message": another sentence says it; "tool": a tool "ask" does, which is one more harmless call (where the
           turns leave room for it, else a sentence)
    """

    where: tuple[str, ...] = ("message", "tool")

    def __post_init__(self) -> None:
        if not self.where or set(self.where) - {"message", "tool"}:
            raise UserError(f"a missing fact can be in a message or behind a tool, got {self.where}")

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        subject = scene.task.info.get("subject")
        where = self.where[int(rng.integers(len(self.where)))]
        if not subject:
            return scene
        text, kind = str(subject["text"]), str(subject["kind"])
        named = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
        asked = _asking(scene, lambda ask: named.sub(f"this {kind}", ask))
        if asked.task.messages == scene.task.messages:
            return scene
        if where == "tool" and scene.spare > 0 and "ask" not in _named(scene):
            return replace(asked, tools=(*asked.tools, Ask(kind, text)), needs=asked.needs + 1)
        return _asking(asked, lambda ask: f"The {kind} is {text}. {ask}")


class Ask:
    """Asks the user what a question leaves open."""

    name = "ask"

    def __init__(self, kind: str, text: str):
        self.description, self.text = "Ask which is meant.", text
        about = {"type": "string", "enum": [kind]}
        self.parameters = {"type": "object", "properties": {"about": about}, "required": ["about"]}

    async def __call__(self, about: str) -> Result:
        return Result(self.text)


# what tools answer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formatted:
    """Every tool answers in a format of its own, one of `formats` (names of FORMATS)."""

    formats: tuple[str, ...] = ("json", "xml", "field")

    def __post_init__(self) -> None:
        if not self.formats or set(self.formats) - set(FORMATS):
            raise UserError(f"formats of results are some of {', '.join(FORMATS)}, got {', '.join(self.formats)}")

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        chosen = {t.name: self.formats[int(rng.integers(len(self.formats)))] for t in scene.tools}
        return _with_tools(scene, set(chosen), lambda t: Wrapped(t, FORMATS[chosen[t.name]]))


@dataclass(frozen=True)
class Noisy:
    """1 to `most` lines that mean nothing, before or behind what a tool answers."""

    lines: tuple[str, ...] = NOISE
    most: int = 2

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        around: dict[str, tuple[str, str]] = {}
        for tool in scene.tools:
            n = int(rng.integers(1, self.most + 1))
            picked = [self.lines[int(k)] for k in rng.integers(len(self.lines), size=n)]
            cut = int(rng.integers(n + 1))
            around[tool.name] = "".join(f"{x}\n" for x in picked[:cut]), "".join(f"\n{x}" for x in picked[cut:])
        return _with_tools(scene, set(around), lambda t: Wrapped(t, _Around(*around[t.name])))


@dataclass(frozen=True)
class _Around:
    head: str
    tail: str

    def __call__(self, text: str) -> str:
        return f"{self.head}{text}{self.tail}"


@dataclass(frozen=True)
class Failing:
    """The first calls of tools that the oracle needs fail; the same call again succeeds.

    most  failures in an episode; never more than the turns leave room for
    """

    errors: tuple[str, ...] = ERRORS
    most: int = 1

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        names = sorted({s["name"] for s in scene.oracle} & _named(scene))
        room = min(self.most, scene.spare if scene.turns else self.most)
        if not names or room < 1:
            return scene
        failures = dict.fromkeys(names, 0)
        for _ in range(int(rng.integers(1, room + 1))):
            failures[names[int(rng.integers(len(names)))]] += 1
        error = self.errors[int(rng.integers(len(self.errors)))]
        broken = {n for n, k in failures.items() if k}
        worse = _with_tools(scene, broken, lambda t: Wrapped(t, failures=failures[t.name], error=error))
        return replace(worse, needs=scene.needs + sum(failures.values()))
