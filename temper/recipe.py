"""Recipes: a function that returns a Run (or a list of them, phases), whose signature is its command line.

    @extends(grpo)
    def my_run(clip: float = 0.2, **options) -> Run:
        \"\"\"One line about it.

        clip   how far the ratio may go
        \"\"\"
        return grpo(method=..., **options)

Nothing here imports torch: the command line and its help must start at once.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

REQUIRED: Any = inspect.Parameter.empty
_BASE, _WITHOUT = "__temper_base__", "__temper_without__"
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One parameter of a recipe. type: its annotation; default: REQUIRED when there is none; recipe: who defines it."""

    name: str
    type: Any
    default: Any
    help: str
    recipe: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def extends(base: Callable[..., Any], *, without: Iterable[str] = ()) -> Callable[[F], F]:
    """The decorated recipe also takes every option of `base` that it does not define itself, as **options.

    without  options of `base` that it sets itself, and which nobody else may
    """
    taken = tuple(without)
    known = {o.name for o in signature(base)}
    for name in taken:
        if name not in known:
            raise TypeError(f"{base.__name__} has no option {name!r} to leave out")

    def decorate(recipe: F) -> F:
        kinds = {p.kind for p in inspect.signature(recipe).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            raise TypeError(f"{recipe.__name__} extends {base.__name__}, so it must take **options and pass them on")
        setattr(recipe, _BASE, base)
        setattr(recipe, _WITHOUT, taken)
        return recipe

    return decorate


def signature(recipe: Callable[..., Any]) -> list[Option]:
    """Its own options, then those of the recipe that it extends."""
    hints = _hints(recipe)
    parameters = [
        p for p in inspect.signature(recipe).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    texts = helps(recipe.__doc__, [p.name for p in parameters])
    own = [
        Option(p.name, hints.get(p.name, str), p.default, texts.get(p.name, ""), recipe.__name__) for p in parameters
    ]
    base = getattr(recipe, _BASE, None)
    if base is None:
        return own
    hidden = {o.name for o in own} | set(getattr(recipe, _WITHOUT, ()))
    inherited = signature(base)
    texts = {o.name: o.help for o in inherited}
    own = [o if o.help else Option(o.name, o.type, o.default, texts.get(o.name, ""), o.recipe) for o in own]
    return own + [o for o in inherited if o.name not in hidden]


def helps(doc: str | None, names: Iterable[str]) -> dict[str, str]:
    """{option: text} from the lines `name  text` of a docstring.

    `one, two  text` documents both, `one  text; two: text` each, and indented lines go on.
    """
    known = set(names)
    lines = inspect.cleandoc(doc or "").splitlines()
    start = lines.index("") if "" in lines else len(lines)
    found: dict[str, str] = {}
    current: list[str] = []
    for line in lines[start:]:
        match = re.match(r"([a-z_][\w]*(?:, [a-z_][\w]*)*)\s+(\S.*)$", line)
        mine = match.group(1).split(", ") if match else []
        if match and known.issuperset(mine):
            current = mine
            found |= dict.fromkeys(current, match.group(2).strip())
        elif current and line.startswith(" "):
            found |= {name: f"{found[name]} {line.strip()}" for name in current}
        else:
            current = []
    return {**_inner(found, known), **{name: _outer(text, known) for name, text in found.items()}}


def _outer(text: str, known: set[str]) -> str:
    """What a line says about the option it stands beside: up to `; other: …`."""
    kept = [text.split("; ")[0], *(p for p in text.split("; ")[1:] if p.partition(":")[0] not in known)]
    return "; ".join(kept)


def _inner(found: Mapping[str, str], known: set[str]) -> dict[str, str]:
    """{other: text} of every `; other: text` in a line."""
    pieces = [p.partition(": ") for text in found.values() for p in text.split("; ")[1:]]
    return {name: text for name, colon, text in pieces if colon and name in known}


def summary(doc: str | None) -> str:
    """The first sentence of a docstring, as one line."""
    return " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())


def _hints(recipe: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations as types; those that cannot be resolved stay text."""
    try:
        return typing.get_type_hints(recipe)
    except Exception:
        return dict(getattr(recipe, "__annotations__", {}))
