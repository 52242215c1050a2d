"""Multi-step tool orchestration over recorded API responses: a cache, workflow templates, tasks made from both.

    cache = ApiCache.read("cache.json")                  # {function: [{"arguments": …, "response": …}, …]}
    templates = read_templates("workflow_templates.json")
    tasks = synthesise(cache, templates, queries=3)      # every call of every task is in the cache

The files are those of horizon-rl/ToolOrchestrationReward (arXiv 2603.24709).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from temper import streams
from temper.errors import UserError
from temper.tasks.orchestration_cache import ApiCache, normal, read_json, succeeded
from temper.tasks.task import Task


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
    rows = read_json(path)
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
