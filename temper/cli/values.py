"""Text from the command line as the value that an annotation asks for."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from temper.errors import UserError

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_SEQUENCES = (tuple, list, Sequence)


class NotText(Exception):
    """The annotation is of something that no text stands for: the option can only be given in Python."""


def parse(text: str, kind: Any) -> Any:
    """`text` as a `kind`. ValueError says what was expected; NotText when no text can be one."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        return _bool(text)
    if kind in (int, float):
        return _number(text, kind)
    if kind in (str, Any):
        return text
    if kind is Path:
        return Path(text).expanduser()
    if kind is type(None):
        return _none(text)
    if origin is Literal:
        return _literal(text, inner)
    if origin in (Union, types.UnionType):
        return _union(text, inner)
    if kind in _SEQUENCES or origin in _SEQUENCES:
        return _sequence(text, kind, origin or kind, inner)
    if kind in (dict, Mapping) or origin in (dict, Mapping):
        return _mapping(text, inner or (str, str))
    raise NotText


def is_sequence(kind: Any) -> bool:
    """Whether the option may be repeated: a tuple or list, or one of those or nothing."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    return any(o in _SEQUENCES or typing.get_origin(o) in _SEQUENCES for o in options)


def is_flag(kind: Any) -> bool:
    """Whether the option may stand alone: a bool, or a bool among other kinds."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    return bool in options


def takes_text(kind: Any) -> bool:
    """Whether an option of this kind can be given on the command line at all."""
    try:
        parse("", kind)
    except NotText:
        return False
    except ValueError:
        pass
    return True


def label(kind: Any) -> str:
    """What to write after the option in help: INT, FLOAT, a|b, STR,STR,…"""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(str(v) for v in inner)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(label(k) for k in inner if k is not type(None)))
    if kind in _SEQUENCES or origin in _SEQUENCES:
        items = [k for k in inner if k is not ...] or [str]
        return f"{label(items[0])},…" if origin is not tuple or ... in inner else ",".join(label(k) for k in items)
    if kind in (dict, Mapping) or origin in (dict, Mapping):
        return "KEY=VALUE,…"
    return {str: "TEXT", Path: "PATH", Any: "TEXT"}.get(kind, getattr(kind, "__name__", "VALUE").upper())


def _bool(text: str) -> bool:
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise ValueError("true or false")


def _number(text: str, kind: type) -> Any:
    try:
        return kind(text.replace("_", ""))
    except ValueError:
        pass
    if kind is int:
        try:
            if float(text).is_integer():  # 1e3
                return int(float(text))
        except (ValueError, OverflowError):
            pass
    raise ValueError("a whole number" if kind is int else "a number")


def _none(text: str) -> None:
    if text.lower() not in ("none", "null"):
        raise ValueError("none")


def _literal(text: str, allowed: tuple[Any, ...]) -> Any:
    for value in allowed:
        if text == str(value):
            return value
    raise ValueError(f"one of {', '.join(map(str, allowed))}")


def _union(text: str, kinds: tuple[Any, ...]) -> Any:
    """The first kind that the text is one of; plain text is tried last."""
    wanted = []
    known = False
    for kind in sorted(kinds, key=lambda k: (k in (str, Path), k is not type(None))):
        try:
            return parse(text, kind)
        except NotText:
            continue
        except ValueError as error:
            known = True
            wanted.append(str(error))
    if not known:
        raise NotText
    wanted = [w for w in wanted if w != "none"] or wanted
    raise ValueError(" or ".join(wanted))


def _sequence(text: str, kind: Any, origin: Any, inner: tuple[Any, ...]) -> Any:
    items = [t.strip() for t in text.split(",")] if text.strip() else []
    kinds = [k for k in inner if k is not ...] or [str]
    if origin is tuple and inner and ... not in inner:
        if len(items) != len(kinds):
            raise ValueError(f"{len(kinds)} values separated by commas")
    else:
        kinds = [kinds[0]] * max(1, len(items))
    if not items:
        parse("", kinds[0]) if kinds[0] not in (int, float, bool) else None
    values = [parse(t, k) for t, k in zip(items, kinds)]
    return values if origin is list else tuple(values)


def _mapping(text: str, inner: tuple[Any, ...]) -> dict[Any, Any]:
    out = {}
    for item in filter(None, (t.strip() for t in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError("key=value pairs separated by commas")
        out[parse(key, inner[0])] = parse(value, inner[1])
    return out


def convert(flag: str, text: str, kind: Any) -> Any:
    """Like parse, with errors that name the option."""
    try:
        return parse(text, kind)
    except ValueError as error:
        raise UserError(f"{flag} wants {error}, not {text!r}")
    except NotText:
        raise UserError(f"{flag} cannot be given on the command line: its type is for Python callers only")
