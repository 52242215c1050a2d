"""Recorded API responses as tools: nothing is asked live, and the same call always gets the same response."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.tasks.task import Task
from temper.tools.base import Result, Tool

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class ApiCache:
    """Responses by function and arguments; nothing else is ever asked. The order of arguments does not count, and a
    text that spells a number is that number.

    digest  of the contents (SHA-256, 16 digits): the run's record has it
    """

    def __init__(self, entries: Mapping[str, Sequence[Mapping[str, Any]]]):
        self.entries = {name: list(rows) for name, rows in entries.items()}
        self._found: dict[str, Any] = {}
        for name, rows in self.entries.items():
            for row in rows:
                self._found[key(name, row["arguments"])] = row["response"]
        text = json.dumps(self.entries, sort_keys=True, ensure_ascii=False)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def read(path: str | Path) -> ApiCache:
        """UserError for a file that is none."""
        entries = read_json(path)
        for name, rows in entries.items() if isinstance(entries, dict) else [("", None)]:
            if not isinstance(rows, list) or not all(
                isinstance(r, dict) and {"arguments", "response"} <= set(r) for r in rows
            ):
                raise UserError(
                    f'{path} is no cache: {{function: [{{"arguments": …, "response": …}}, …]}} is expected'
                    + (f" ({name!r} is something else)" if name else "")
                )
        return ApiCache(entries)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, call: tuple[str, Mapping[str, Any]]) -> bool:
        return key(*call) in self._found

    def get(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """KeyError when there is none."""
        return self._found[key(name, arguments)]

    def schema(self, name: str) -> dict[str, Any]:
        """A function's schema as its recorded calls show it: required is what every call has."""
        rows = [r["arguments"] for r in self.entries[name]]
        names = list(dict.fromkeys(n for r in rows for n in r))
        kinds = {n: sorted({TYPES.get(type(r[n]), "string") for r in rows if n in r}) for n in names}
        parameters = {
            "type": "object",
            "properties": {n: {"type": k[0] if len(k) == 1 else k} for n, k in kinds.items()},
            "required": [n for n in names if all(n in r for r in rows)],
        }
        return {"name": name, "description": name.replace("_", " "), "parameters": parameters}


def key(name: str, arguments: Mapping[str, Any]) -> str:
    """One text for all spellings of a call."""
    return json.dumps([name, normal(arguments)], sort_keys=True, default=str)


def normal(value: Any) -> Any:
    """A value in which texts that spell numbers are numbers, and 2.0 is 2."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?|[+-]?\.\d+", value.strip()):
        value = float(value) if "." in value else int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(k): normal(v) for k, v in value.items()}
    return [normal(v) for v in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Cached:
    """A tool that answers from the cache; a call that is not in there is an error that the policy gets to see."""

    cache: ApiCache
    name: str
    description: str
    parameters: Mapping[str, Any]
    own_deadline = True  # it takes no time

    async def __call__(self, **arguments: Any) -> Result:
        try:
            response = self.cache.get(self.name, arguments)
        except KeyError:
            return Result(json.dumps({"error": f"no result for {self.name} with these arguments"}), "tool error")
        return Result(json.dumps(response, ensure_ascii=False), "tool error" if failed(response) else "ok")


def failed(response: Any) -> bool:
    """Whether a response carries an error flag: an "error", or a "status" of false."""
    return isinstance(response, Mapping) and ("error" in response or response.get("status") is False)


def succeeded(response: Any) -> bool:
    """Whether a response can stand in a reference: no error flag, and its data is not empty."""
    data = response.get("data", response) if isinstance(response, Mapping) else response
    return not failed(response) and bool(data)


@dataclass
class CachedTools:
    """The tools that a task names (info["functions"], names; the cache's own schemas unless `schemas` has one)."""

    cache: ApiCache
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    digest: str = field(init=False)  # of the cache, for the record of the run

    def __post_init__(self) -> None:
        self.digest = self.cache.digest

    def __call__(self, task: Task) -> Sequence[Tool]:
        found = []
        for name in task.info["functions"]:
            if name not in self.cache.entries:
                raise UserError(f"task {task.id!r} needs {name!r}, of which the cache has no call")
            told = self.schemas.get(name) or self.cache.schema(name)
            found.append(Cached(self.cache, name, told["description"], _object(told["parameters"])))
        return found


def _object(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON schema has them: some files write "dict" for "object" and "float" for "number"."""
    words = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}

    def mended(x: Any) -> Any:
        if isinstance(x, Mapping):
            return {k: words.get(v, v) if k == "type" and isinstance(v, str) else mended(v) for k, v in x.items()}
        return [mended(v) for v in x] if isinstance(x, list) else x

    fixed: dict[str, Any] = mended(parameters)
    return fixed


def read_json(path: str | Path) -> Any:
    """UserError for a file that cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}")
