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
        return "--" + self.name.rstrip("_").replace("_", "-")  # with_ is --with: a keyword is no parameter's name


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

    `one, two  text` documents both, `one  text; two: text` each, and indented lines go on. A docstring that is one
    paragraph `one: text; two: text` does it too.
    """
    known = set(names)
    lines = inspect.cleandoc(doc or "").splitlines()
    found: dict[str, str] = {}
    for first, last in _entries(lines, known):
        mine, text = _ENTRY.match(lines[first]).groups()  # type: ignore[union-attr]
        said = " ".join([text.strip(), *(line.strip() for line in lines[first + 1 : last])])
        found |= dict.fromkeys(mine.split(", "), said)
    if not found:
        return _inner(["; " + summary(doc)], known)
    return {**_inner(found.values(), known), **{name: _outer(text, known) for name, text in found.items()}}


def prose(doc: str | None, names: Iterable[str]) -> str:
    """A docstring without the lines that describe options."""
    lines = inspect.cleandoc(doc or "").splitlines()
    gone = {n for first, last in _entries(lines, set(names)) for n in range(first, last)}
    kept = "\n".join(line for n, line in enumerate(lines) if n not in gone)
    return re.sub(r"\n{3,}", "\n\n", kept).strip()


_ENTRY = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*)\s+(\S.*)$")
_WIDE = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*)(  +)\S")


def _entries(lines: list[str], known: set[str]) -> list[tuple[int, int]]:
    """(first, last + 1) line of every entry: a name, then its text in the column where the others' texts begin."""
    column = {m.end(2) for line in lines if (m := _WIDE.match(line)) and known.issuperset(m.group(1).split(", "))}
    found: list[tuple[int, int]] = []
    for n, line in enumerate(lines):
        match = _ENTRY.match(line)
        if match and known.issuperset(match.group(1).split(", ")) and match.start(2) in column:
            found.append((n, n + 1))
        elif found and found[-1][1] == n and line.startswith(" "):
            found[-1] = (found[-1][0], n + 1)
    return found


def _outer(text: str, known: set[str]) -> str:
    """What a line says about the option it stands beside: up to `; other: …`."""
    first, *rest = text.split("; ")
    return "; ".join([first, *(p for p in rest if not known.issuperset(p.partition(": ")[0].split(", ")))])


def _inner(texts: Iterable[str], known: set[str]) -> dict[str, str]:
    """{other: text} of every `; other: text` in a line."""
    pieces = [p.partition(": ") for text in texts for p in text.split("; ")[1:]]
    return {n: text for names, colon, text in pieces for n in names.split(", ") if colon and n in known}


def summary(doc: str | None) -> str:
    """The first sentence of a docstring, as one line."""
    return " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())


def _hints(recipe: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations as types; those that cannot be resolved stay text."""
    try:
        return typing.get_type_hints(recipe)
    except Exception:
        return dict(getattr(recipe, "__annotations__", {}))
