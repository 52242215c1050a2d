"""`temper list` and `temper show`: what there is, from the source, without importing any of it."""

from __future__ import annotations

import ast
import contextlib
import json as json_
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from temper.cli import find, options, source
from temper.cli.source import Entry
from temper.console import bold, shorten
from temper.errors import unknown
from temper.recipe import REQUIRED, Option, prose

What = Literal["recipes", "methods", "parts", "tasks", "all"]
COLUMNS = {
    "recipes": ("name", "title"), "methods": ("slug", "title", "family", "hooks", "paper"),
    "parts": ("name", "kind", "title"), "tasks": ("name", "kind", "title"),
}  # fmt: skip


def listing(what: What = "all", *, json: bool = False) -> int:
    """The recipes, methods, parts and tasks that there are.

    what  recipes, methods, parts or tasks (default: all)
    json  as JSON: an object of lists, or the list that was asked for
    """
    wanted = tuple(COLUMNS) if what == "all" else (what,)
    found = {w: [e.row() for e in entries(w).values()] for w in wanted}
    if json:
        print(json_.dumps(found if what == "all" else found[what], indent=1, ensure_ascii=False))
        return 0
    for n, (name, rows) in enumerate(found.items()):
        print("\n".join([*([""] if n else []), bold(f"{name} ({len(rows)})"), *_aligned(rows, COLUMNS[name])]))
    return 0


def show(name: str, *, json: bool = False) -> int:
    """One recipe, method, part, task or data set: what it does, its options, what it reads and writes, its file.

    name  as temper list has it; a recipe's FILE.py, or kind:name (method:grpo) where two things share a name
    json  as JSON
    """
    if name.endswith(".py") or ".py:" in name:
        target = find.target(name)
        found = [("recipe", Entry(name, "", target.path, {"function": target.function}))]
    else:
        found = matching(name)
    described = [describe(kind, entry) for kind, entry in found]
    if json:
        print(
            json_.dumps(described[0] if len(described) == 1 else described, indent=1, ensure_ascii=False, default=str)
        )
        return 0
    for n, d in enumerate(described):
        print("\n".join([*([""] if n else []), *_page(d)]))
    return 0


def entries(what: str) -> dict[str, Entry]:
    """Everything of a kind, by name."""
    return {"recipes": source.recipes, "methods": source.methods, "parts": source.parts, "tasks": tasks}[what]()


def matching(name: str) -> list[tuple[str, Entry]]:
    """(kind, entry) of everything with this name. UserError names what is close."""
    kind, _, rest = name.rpartition(":") if name.partition(":")[0] in _KINDS else ("", "", name)
    kinds = [kind] if kind else list(_KINDS)
    known = {k: entries(_KINDS[k]) for k in kinds}
    spelled = {rest, rest.replace("_", "-")}
    found = [(k, e) for k, all_ in known.items() for n, e in all_.items() if n in spelled]
    if not found:
        raise unknown(kind or "name", rest, {n for all_ in known.values() for n in all_})
    return found


_KINDS = {"recipe": "recipes", "method": "methods", "part": "parts", "task": "tasks"}


def describe(kind: str, entry: Entry) -> dict[str, Any]:
    """Everything that the source says about it, as plain data."""
    told = {"kind": kind, **entry.row()}
    if kind == "task":
        return {**told, **_data_set(entry.name)}
    module = source.read(entry.file)
    if kind == "part":
        node = module.classes[entry.name]
        found = source.fields(module, node)
        declared = {w: source.declared(module, node, w) for w in ("reads", "writes")}
        return {
            **told, "doc": _doc(node), "options": _plain(found), **{k: v for k, v in declared.items() if v is not None}
        }  # fmt: skip
    if kind == "method":
        function = module.functions[entry.file.stem]
        own = [o for o in source.parameters(module, function) if o.name != "policy"]
        return {**told, "doc": module.doc, "parts": source.uses(module), "options": _plain(own)}
    name = str(told.get("function", entry.file.stem))
    known = find.Target(entry.name, entry.file, name, bundled=True).options() or []
    return {
        **told,
        "doc": _doc(module.functions[name]),
        "options": _plain(known),
        "command": f"temper run {entry.name}",
    }


def tasks() -> dict[str, Entry]:
    """Suites, skills of the bundled model, and the data sets of Reasoning Gym."""
    from temper import install
    from temper.tasks import reasoning_gym, suites

    here = source.PACKAGE / "tasks"
    found = {}
    for name, suite in suites.SUITES.items():
        title = f"trains on {_labels(suite.train)}; also measures {_labels(suite.held_out)}"
        found[name] = Entry(name, title, here / "suites.py", {"kind": "suite"})
    if not install.has("reasoning_gym"):
        return found
    missing = reasoning_gym.missing()
    for name in reasoning_gym.names():
        title = f"unusable here: {missing[name]}" if name in missing else "reasoning-gym data set"
        more = {"kind": "reasoning-gym", "usable": name not in missing}
        found[f"rg:{name}"] = Entry(f"rg:{name}", title, here / "reasoning_gym.py", more)
    return found


def _labels(parts: Iterable[Any]) -> str:
    return ", ".join(p.label for p in parts) or "nothing more"


def _data_set(name: str) -> dict[str, Any]:
    """A data set's difficulty parameters, levels and first question; a suite's parts."""
    from temper.tasks import reasoning_gym, suites

    if name in suites.SUITES:
        suite = suites.SUITES[name]
        return {w: [{"source": p.label, "data": f"rg:{p.name}", **p.config} for p in getattr(suite, w)]
                for w in ("train", "held_out")}  # fmt: skip
    short = name.removeprefix("rg:")
    if short in reasoning_gym.missing():
        return {}
    task = reasoning_gym.ReasoningGym(short, 1)[0]
    told: dict[str, Any] = {"parameters": reasoning_gym.options(short), "example": task.prompt, "answer": task.answer}
    with contextlib.suppress(ValueError):
        told["levels"] = reasoning_gym.curriculum(short)
    return told


def _doc(node: ast.AST | None) -> str:
    return (ast.get_docstring(node) or "") if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""


def _plain(found: Iterable[Option]) -> list[dict[str, Any]]:
    from temper.cli.values import label

    return [
        {"name": o.name, "type": label(o.type), "help": o.help, "of": o.recipe,
         **({"required": True} if o.default is REQUIRED else {"default": o.default})}
        for o in found
    ]  # fmt: skip


def _page(d: Mapping[str, Any]) -> list[str]:
    """A description for reading."""
    out = [f"{bold(str(d['name']))}  ({d['kind']}, {d['file']})"]
    doc = prose(str(d.get("doc", "")), [o["name"] for o in d.get("options", ())])
    out += ["", *doc.splitlines()] if doc else []
    for key in ("paper", "family", "hooks", "parts", "recipe", "command", "reads", "writes"):
        if d.get(key) and not (key == "paper" and str(d[key]) in doc):
            value = ", ".join(d[key]) if isinstance(d[key], list) else d[key]
            out.append(f"{key}: {value}")
    if d.get("options"):
        out += ["", "options", *_options(d["options"])]
    for key in ("train", "held_out", "parameters", "levels"):
        if d.get(key):
            items = d[key].items() if isinstance(d[key], dict) else enumerate(d[key])
            out += ["", key.replace("_", " "), *(f"  {k}: {v}" if isinstance(k, str) else f"  {v}" for k, v in items)]
    if d.get("example"):
        out += ["", "example", *(f"  {line}" for line in str(d["example"]).splitlines()), f"  → {d['answer']}"]
    return out


def _options(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    made = [
        Option(r["name"], type(str(r["type"]), (), {}), r.get("default", REQUIRED), str(r["help"]), "") for r in rows
    ]
    return options.fields_table(made)


def _aligned(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    """Rows as columns, the last one cut to the terminal."""
    text = [[", ".join(r[c]) if isinstance(r[c], list) else str(r[c]) for c in columns] for r in rows]
    wide = [max((len(t[c]) for t in text), default=0) for c in range(len(columns))]
    return ["  " + "  ".join(shorten(v, 100).ljust(w) for v, w in zip(t, wide)).rstrip() for t in text]
