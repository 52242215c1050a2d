"""Spaces of Gymnasium as text: what an observation looks like, and which action a text names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from temper.errors import UserError

MOST = 1000  # numbers of an array that is shown
KINDS = ("Discrete", "MultiDiscrete", "MultiBinary", "Text", "Box", "Dict", "Tuple")


def shower(space: Any) -> Callable[[Any, Any], str]:
    """(observation, info) → text: a number, a text, a small array, or several of these with their names."""
    _check(space)
    return lambda observation, info: _text(observation)


def reader(space: Any, names: Sequence[str] = ()) -> Callable[[str], Any]:
    """A text → an action; ValueError, with a sentence for the policy, where it names none or several.

    Discrete: the one name or number that occurs as a word; MultiDiscrete and MultiBinary: as many numbers as it has;
    Text: what follows the thinking.
    """
    kind = _kind(space)
    if kind == "Discrete":
        return _one(space, names)
    if kind in ("MultiDiscrete", "MultiBinary"):
        return _several(space)
    if kind == "Text":
        return _answer
    raise UserError(f"an action of {space} is not text: say how it is read (read=)")


def _kind(space: Any) -> str:
    """Gymnasium's own class of a space, or none of those that are read here."""
    return next((c.__name__ for c in type(space).__mro__ if c.__name__ in KINDS), "")


def _one(space: Any, names: Sequence[str]) -> Callable[[str], Any]:
    first, n = int(space.start), int(space.n)
    if names and len(names) != n:
        raise UserError(f"there are {n} actions, and {len(names)} names: {', '.join(names)}")
    actions = {str(name).casefold(): first + k for k, name in enumerate(names or range(first, first + n))}
    words = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(actions, key=len, reverse=True))) + r")(?!\w)")
    ask = f"Say one of: {', '.join(map(str, names or range(first, first + n)))}."

    def read(text: str) -> Any:
        found = set(words.findall(_answer(text).casefold()))
        if len(found) != 1:
            raise ValueError(ask)
        return actions[found.pop()]

    return read


def _several(space: Any) -> Callable[[str], Any]:
    import numpy

    shape = space.shape
    size = int(numpy.prod(shape))

    def read(text: str) -> Any:
        numbers = re.findall(r"-?\d{1,9}", _answer(text))
        if len(numbers) != size:
            raise ValueError(f"Say {size} numbers.")
        return numpy.array(list(map(int, numbers)), dtype=space.dtype).reshape(shape)

    return read


def _answer(text: str) -> str:
    """What follows the thinking; nothing while it is not over."""
    _, over, answer = text.rpartition("</think>")
    return "" if "<think>" in answer and not over else answer.strip()


def _check(space: Any) -> None:
    """UserError for a space whose observations are no short text."""
    kind = _kind(space)
    if kind == "Dict":
        for inner in space.spaces.values():
            _check(inner)
    elif kind == "Tuple":
        for inner in space.spaces:
            _check(inner)
    elif kind in ("Box", "MultiDiscrete", "MultiBinary"):
        size = 1
        for n in space.shape:
            size *= n
        if size > MOST:
            raise UserError(f"an observation has {size} numbers, which is no text: say what is shown (show=)")
    elif kind not in ("Discrete", "Text"):
        raise UserError(f"an observation of {space} is not text: say what is shown (show=)")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(one)}" for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_text, value))
    if hasattr(value, "tolist"):
        return _text(value.tolist())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
