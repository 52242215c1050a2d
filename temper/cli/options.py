"""Command lines against a list of options, and the help that describes them."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from temper.cli import values
from temper.errors import UserError, unknown
from temper.recipe import REQUIRED, Option, signature, summary


def parse(argv: Sequence[str], options: Iterable[Option], places: Sequence[str] = ()) -> dict[str, Any]:
    """{option: value} of those that were given; `places` are options that may be given by position.

    Accepts --name value, --name=value, --name and --no-name for bools, dashes or underscores, and repeated lists.
    """
    known = {o.name: o for o in options}
    free = [p for p in places if p in known]
    found: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            if not free:
                raise UserError(f"unexpected argument {word!r}: options look like --name value")
            option = known[free.pop(0)]
            found[option.name] = values.convert(option.name, word, option.type)
            continue
        option, text = _match(word, known)
        if text is None:
            text = _following(option, rest)
        _store(found, option, text)
    return found


def pick(argv: Sequence[str], options: Sequence[Option]) -> dict[str, Any]:
    """Only these options, out of a command line with others that nobody knows yet."""
    names = {o.name for o in options}
    starts = [i for i, w in enumerate(argv) if w.startswith("--")]
    runs = [argv[i:j] for i, j in zip(starts, [*starts[1:], len(argv)])]
    mine = [r for r in runs if r[0][2:].partition("=")[0].replace("-", "_") in names]
    return parse([w for r in mine for w in r], options)


def _match(word: str, known: dict[str, Option]) -> tuple[Option, str | None]:
    """The option that `word` names, and the text that it already carries."""
    flag, equals, text = word.partition("=")
    name = flag[2:].replace("-", "_")
    name = f"{name}_" if name not in known and f"{name}_" in known else name
    if name in known:
        return known[name], text if equals else None
    if name.startswith("no_") and name[3:] in known and values.is_flag(known[name[3:]].type) and not equals:
        return known[name[3:]], "false"
    raise unknown("option", flag, [o.flag for o in known.values()])


def _following(option: Option, rest: list[str]) -> str:
    """The value that stands after an option."""
    if values.is_flag(option.type):
        bare = option.type is bool
        wanted = values.TRUE + values.FALSE if bare else ()
        if rest and not rest[0].startswith("--") and (not bare or rest[0].lower() in wanted):
            return rest.pop(0)
        return "true"
    if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
        raise UserError(f"{option.flag} needs a value ({values.label(option.type)})")
    return rest.pop(0)


def extent(word: str, rest: list[str], options: Iterable[Option]) -> int:
    """How many of the following words belong to the option `word`."""
    if not word.startswith("--") or "=" in word:
        return 0
    option, text = _match(word, {o.name: o for o in options})
    left = list(rest)
    if text is None:
        _following(option, left)
    return len(rest) - len(left)


def _store(found: dict[str, Any], option: Option, text: str) -> None:
    value = values.convert(option.flag, text, option.type)
    before = found.get(option.name)
    if values.is_sequence(option.type) and before is not None and value is not None:
        value = type(value)([*before, *value])
    found[option.name] = value


def demand(found: dict[str, Any], options: Iterable[Option], where: str, by_place: Sequence[str] = ()) -> None:
    """UserError when something without default was not given."""
    missing = [o for o in options if o.default is REQUIRED and o.name not in found]
    if missing:
        names = [o.name.upper() if o.name in by_place else o.flag for o in missing]
        raise UserError(f"{where} needs {' and '.join(names)}; see {where} --help")


def places(function: Callable[..., Any]) -> list[str]:
    """Parameters of a command that are given by position: those before the `*`."""
    kinds = inspect.signature(function).parameters.values()
    return [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD]


def wants_help(argv: Iterable[str]) -> bool:
    return any(a in ("--help", "-h") for a in argv)


def command_help(name: str, function: Callable[..., Any]) -> str:
    """Help of a command that is a plain function."""
    by_place = places(function)
    found = signature(function)
    words = [o.name.upper() if o.default is REQUIRED else f"[{o.name.upper()}]" for o in found if o.name in by_place]
    usage = " ".join(["temper", name, *words, *(["[--option value …]"] if len(found) > len(by_place) else [])])
    return "\n".join([usage, "", summary(function.__doc__), "", *table(found, by_place)])


def table(options: Iterable[Option], by_place: Sequence[str] = ()) -> list[str]:
    """Options as aligned lines: flag, kind, text, default."""
    heads = [(o.name.upper() if o.name in by_place else _head(o), o) for o in options]
    return columns([(head, f"{o.help}{_default(o, by_place)}".strip()) for head, o in heads])


def fields_table(fields: Iterable[Option]) -> list[str]:
    """Fields of a part as aligned lines: name, what it is, default."""
    rows = []
    for o in fields:
        default = " (required)" if o.default is REQUIRED else f" (default: {o.default!s})"
        default = "" if "(default" in o.help or o.default in (None, "", ()) else default
        rows.append((o.name, f"{o.help}{default}".strip()))
    return columns(rows)


def columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """(head, text) as lines, with the text wrapped beside its head."""
    if not rows:
        return []
    left = min(30, max(len(head) for head, _ in rows)) + 2
    width = max(50, min(120, shutil.get_terminal_size().columns) - left - 2)
    lines = []
    for head, text in rows:
        pieces = textwrap.wrap(text, width) or [""]
        if len(head) > left - 2:
            lines.append(f"  {head}")
        else:
            lines.append(f"  {head:<{left}}{pieces.pop(0)}".rstrip())
        lines += [f"  {'':<{left}}{p}" for p in pieces if p]
    return lines


def _head(o: Option) -> str:
    if o.type is bool:
        return f"{o.flag}, --no-{o.flag[2:]}" if o.default is True else o.flag
    kind = values.label(o.type)
    if values.is_flag(o.type):
        return f"{o.flag} [{kind.replace('BOOL|', '')}]"
    return f"{o.flag} {kind}"


def _default(o: Option, by_place: Sequence[str]) -> str:
    if o.default is REQUIRED:
        return "" if o.name in by_place else " (required)"
    if not values.takes_text(o.type):
        return " (in Python only)"
    if o.default is True:
        return " (default: on)"
    if "default" in o.help or o.default is None or o.default is False or o.default in ("", (), []):
        return ""
    shown = ",".join(map(str, o.default)) if isinstance(o.default, (tuple, list)) else o.default
    return f" (default: {shown})"
