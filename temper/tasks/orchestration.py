"""Multi-step tool orchestration over recorded API responses: a cache, workflow templates, tasks made from both.

    cache = ApiCache.read("cache.json")                  # {function: [{"arguments": …, "response": …}, …]}
    templates = read_templates("workflow_templates.json")
    tasks = synthesise(cache, templates, queries=3)      # every call of every task is in the cache

The files are those of horizon-rl/ToolOrchestrationReward (arXiv 2603.24709).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from temper import streams
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
        entries = _json(path)
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


# workflows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A call of a template. takes: argument → (earlier step, path in its response, as "data[0].id")."""

    function: str
    after: tuple[int, ...] = ()
    takes: Mapping[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """A dependency graph; ask: its question with {argument} or {step.argument} of what no step gives ("": by rule)."""

    id: str
    steps: tuple[Step, ...]
    ask: str = ""

    def __post_init__(self) -> None:
        for n, step in enumerate(self.steps):
            needed = {*step.after, *(k for k, _ in step.takes.values())}
            if not needed <= set(range(n)):
                raise UserError(f"workflow {self.id}: step {n} needs {sorted(needed)}, which must be earlier steps")


def read_templates(path: str | Path) -> list[Template]:
    """A file {"workflows": [{"id", "dependencies": {"0": {"function", "depends_on", "dependency_args"}}}]}."""
    rows = _json(path)
    try:
        return [_template(row) for row in rows["workflows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no workflow templates: {type(error).__name__}: {error}")


def _template(row: Mapping[str, Any]) -> Template:
    steps = []
    for _, s in sorted(row["dependencies"].items(), key=lambda item: int(item[0])):
        takes = {a: (int(t["from_step"]), str(t["from_field"])) for a, t in (s.get("dependency_args") or {}).items()}
        steps.append(Step(s["function"], tuple(int(k) for k in s.get("depends_on") or ()), takes))
    return Template(str(row["id"]), tuple(steps), str(row.get("ask", "")))


def at(response: Any, path: str) -> Any:
    """The value at "data[0].id". LookupError when there is none."""
    for part in re.findall(r"\w+|\[\d+\]", path):
        try:
            response = response[int(part[1:-1])] if part.startswith("[") else response[part]
        except (TypeError, IndexError, KeyError):
            raise LookupError(path)
    return response


Calls = list[dict[str, Any]]  # {"name", "arguments", "after"}, in order
Writer = Callable[[Template, Calls], str]  # a model, or `asked`


def synthesise(
    cache: ApiCache, templates: Sequence[Template], queries: int = 3, distractors: int = 2, seed: int = 0, 
    write: Writer | None = None, tries: int = 50,
) -> list[Task]:  # fmt: skip
    """Up to `queries` tasks of each template, instantiated with chains of cached calls that succeed.

    distractors  further functions that a task offers; write: (template, calls) → the question, for example a model
    tries        chains that are drawn for a task before its template is given up
    """
    if not 1 <= queries <= 10:
        raise UserError(f"queries of a template must be within 1 and 10, got {queries}")
    tasks = []
    for template in templates:
        seen: set[str] = set()
        rng = streams.generator(seed, "orchestration", template.id)
        for _ in range(tries * queries):
            calls = chain(cache, template, rng)
            if calls is None or (text := json.dumps(calls, sort_keys=True)) in seen or len(seen) == queries:
                continue
            seen.add(text)
            own = list(dict.fromkeys(c["name"] for c in calls))
            others = [n for n in cache.entries if n not in own]
            more = [others[int(k)] for k in rng.permutation(len(others))[:distractors]]
            functions = [(own + more)[int(k)] for k in rng.permutation(len(own) + len(more))]
            prompt = (write or asked)(template, calls)
            info = {"oracle": calls, "functions": functions, "workflow": template.id}
            tasks.append(Task(f"{template.id}/{len(seen)}", prompt, None, template.id, info))
    if not tasks:
        raise UserError("no workflow can be carried out with the calls that are in the cache")
    return tasks


def chain(cache: ApiCache, template: Template, rng: np.random.Generator) -> Calls | None:
    """Cached calls that fit together and succeed, drawn step by step; None when a step finds no call."""
    calls: Calls = []
    results: list[Any] = []
    for step in template.steps:
        try:
            wanted = {a: normal(at(results[k], path)) for a, (k, path) in step.takes.items()}
        except LookupError:
            return None
        fits = [
            r for r in cache.entries.get(step.function, ())
            if succeeded(r["response"]) and all(normal(r["arguments"].get(a)) == v for a, v in wanted.items())
        ]  # fmt: skip
        if not fits:
            return None
        row = fits[int(rng.integers(len(fits)))]
        after = sorted({*step.after, *(k for k, _ in step.takes.values())})
        calls.append({"name": step.function, "arguments": dict(row["arguments"]), "after": after})
        results.append(row["response"])
    return calls


def asked(template: Template, calls: Calls) -> str:
    """The question by rule: the template's own with its arguments filled in, or a sentence for each step."""
    free = [
        {a: v for a, v in c["arguments"].items() if a not in s.takes}
        for c, s in zip(calls, template.steps, strict=True)
    ]
    if template.ask:
        values = {f"{n}.{a}": v for n, given in enumerate(free) for a, v in given.items()}
        values = {a: v for given in reversed(free) for a, v in given.items()} | values
        return re.sub(r"\{([\w.]+)\}", lambda m: str(values[m[1]]), template.ask)
    said = []
    for n, (call, given) in enumerate(zip(calls, free, strict=True), 1):
        with_ = ", ".join(f"{a} {json.dumps(v, ensure_ascii=False)}" for a, v in given.items())
        needs = ", ".join(f"step {k + 1}" for k in call["after"])
        what = call["name"].replace("_", " ")
        said.append(f"{n}. {what}" + (f" with {with_}" if with_ else "") + (f", using {needs}" if needs else ""))
    return "Do the following. " + ". ".join(said) + "."


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}")
