"""Tool calls in sampled text. What cannot be read becomes a Result ("refused"), which the policy gets to see.

    parse('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')      [Call("f", {"a": 1})]
    parse('[f(a=1), g(b="x")]', "pythonic")                                   [Call("f", …), Call("g", …)]
    find(text, Tags({"search": ("search", "query")}))                         with the place of each in the text

No text makes a reader raise, and none takes long: calls are counted, and their length and depth are bounded.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from temper.errors import UserError
from temper.tools.base import ARGUMENTS_LIMIT, DEPTH_LIMIT, Call, Result, nested

MOST = 32  # calls of one turn; further ones are not read


class Found(NamedTuple):
    """A call (or why it cannot be read) and the characters text[start:end] that it takes."""

    call: Call | Result
    start: int
    end: int


Reader = Callable[[str], Iterator[Found]]


def find(text: str, format: str | Reader = "hermes") -> list[Found]:
    """The calls in their order. `format`: a name of FORMATS, or any reader, such as `Tags`."""
    if isinstance(format, str):
        if format not in FORMATS:
            raise UserError(f"there is no tool-call format {format!r}; formats: {', '.join(FORMATS)}")
        format = FORMATS[format]
    return [found._replace(call=_plain(found.call)) for found in islice(format(text), MOST)]


def parse(text: str, format: str | Reader = "hermes") -> list[Call | Result]:
    """The calls without their places."""
    return [found.call for found in find(text, format)]


def apart(text: str, prefix: str, format: str | Reader = "hermes") -> tuple[str, list[dict[str, Any]]]:
    """(the text without its calls, the calls as OpenAI has them). What cannot be read stays text.

    prefix  of the ids that the calls get
    """
    rest, calls, at = list[str](), list[dict[str, Any]](), 0
    for found in find(text, format):
        if isinstance(found.call, Result):
            continue
        arguments = json.dumps(found.call.arguments, ensure_ascii=False)
        function = {"name": found.call.name, "arguments": arguments}
        calls.append({"id": f"{prefix}{len(calls)}", "type": "function", "function": function})
        rest.append(text[at : found.start].rstrip())
        at = found.end
    return "".join([*rest, text[at:]]), calls


def hermes(text: str) -> Iterator[Found]:
    """<tool_call>{"name": …, "arguments": {…}}</tool_call>: Hermes, Qwen. A tag within a JSON string is no tag."""
    opening, closing = "<tool_call>", "</tool_call>"
    at = 0
    while (start := text.find(opening, at)) >= 0:
        value, after = _json(text, start + len(opening))
        after = _skip(text, after)
        if not isinstance(value, Result) and text.startswith(closing, after):
            at = after + len(closing)
            yield Found(_call(value), start, at)
            continue
        end = text.find(closing, start)
        at = len(text) if end < 0 else end + len(closing)
        why = value if isinstance(value, Result) else _unread(f"text follows the JSON, or {closing} is missing")
        yield Found(why, start, at)


def llama(text: str) -> Iterator[Found]:
    """{"name": …, "parameters": {…}}, several separated by ";", alone or after <|python_tag|>: Llama 3."""
    tag = text.find("<|python_tag|>")
    at = _skip(text, 0 if tag < 0 else tag + len("<|python_tag|>"))
    while text.startswith("{", at):
        value, after = _json(text, at)
        if isinstance(value, Result):
            yield Found(value, at, len(text))
            return
        yield Found(_call(value), at, after)
        at = _skip(text, after, ";")


_LIST = re.compile(r"^[ \t]*(\[)(?=\s*[A-Za-z_][\w.]*\()", re.MULTILINE)


def pythonic(text: str) -> Iterator[Found]:
    """[f(a=1), g(b="x")] at the start of a line; arguments are named and literal."""
    at = 0
    while match := _LIST.search(text, at):
        start = match.start(1)
        end = _closed(text, start)
        at = min(len(text), start + ARGUMENTS_LIMIT) if end is None else end
        calls = [_unread("the list is too long, or not closed")] if end is None else _listed(text[start:end])
        yield from (Found(call, start, at) for call in calls)


def _listed(text: str) -> list[Call | Result]:
    try:
        tree = ast.parse(text, mode="eval").body
        items = tree.elts if isinstance(tree, ast.List) else []
        return [_literal(item) for item in items] or [_unread("it is not a list of calls")]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return [_unread("it is not a list of calls with literal arguments")]


_OPEN = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_CLOSE = re.compile(r"^[ \t]*```[ \t]*$", re.MULTILINE)


def fenced(text: str) -> Iterator[Found]:
    """```python … ``` blocks: calls of the tool "python" with the argument "code". Other blocks are not calls."""
    at = 0
    while match := _OPEN.search(text, at):
        close = _CLOSE.search(text, match.end())
        at = len(text) if close is None else close.end()
        if match[1].lower() not in ("python", "py", "python3"):
            continue
        body = text[match.end() + 1 : at if close is None else close.start()]
        call = _unread("the code block is not closed") if close is None else _sized("python", "code", body)
        yield Found(call, match.start(), at)


@dataclass(frozen=True)
class Tags:
    """<search>words</search>: `tags` says which tool and which argument the text between the tags is for.

    The text goes to the first closing tag; an opening tag of the same name within it makes the call unreadable.
    """

    tags: Mapping[str, tuple[str, str]]

    def __call__(self, text: str) -> Iterator[Found]:
        names = "|".join(re.escape(tag) for tag in self.tags)
        at = 0
        while names and (match := re.compile(f"<({names})>").search(text, at)):
            tag = match[1]
            end = text.find(f"</{tag}>", match.end())
            at = len(text) if end < 0 else end + len(tag) + 3
            body = text[match.end() : end]
            if end < 0:
                call: Call | Result = _unread(f"</{tag}> is missing")
            elif f"<{tag}>" in body:
                call = _unread(f"<{tag}> stands within <{tag}>")
            else:
                call = _sized(*self.tags[tag], body.strip())
            yield Found(call, match.start(), at)


FORMATS: dict[str, Reader] = {"hermes": hermes, "llama": llama, "pythonic": pythonic, "fenced": fenced}


def _unread(why: str) -> Result:
    return Result(f"The tool call cannot be read: {why}.", "refused")


def _plain(call: Call | Result) -> Call | Result:
    """Only what JSON can say, so that whoever keeps a call can write it: no bytes, no sets, no endless integers."""
    if isinstance(call, Result):
        return call
    if nested(call.arguments):
        return _unread(f"its arguments are nested more than {DEPTH_LIMIT} deep")
    try:
        json.dumps(call.arguments, allow_nan=False)
    except (TypeError, ValueError):
        return _unread("its arguments are not JSON")
    return call


def _sized(tool: str, argument: str, body: str) -> Call | Result:
    return _unread("it is too long") if len(body) > ARGUMENTS_LIMIT else Call(tool, {argument: body})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)


def _json(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at a place and where it ends, or why there is none."""
    at = _skip(text, at)
    window = text[at : at + ARGUMENTS_LIMIT]
    try:
        value, length = _DECODER.raw_decode(window)
    except (ValueError, RecursionError) as error:
        long = len(text) - at > ARGUMENTS_LIMIT and getattr(error, "pos", 0) > 0
        where = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else str(error)[:80]
        return _unread("it is too long, or not JSON" if long else f"it is not JSON ({where})"), at
    return value, at + length


def _call(value: Any) -> Call | Result:
    """Of {"name": …, "arguments" or "parameters": {…}}; arguments may be JSON in a string."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return _unread('it must be an object with a "name"')
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments, _ = _json(arguments, 0)
    if isinstance(arguments, Result):
        return arguments
    if not isinstance(arguments, Mapping):
        return _unread('its "arguments" must be an object')
    return Call(value["name"], dict(arguments))


def _literal(node: ast.expr) -> Call | Result:
    if not isinstance(node, ast.Call):
        return _unread("it is not a list of calls")
    name = ast.unparse(node.func)
    if node.args or any(k.arg is None for k in node.keywords):
        return _unread(f"the arguments of {name[:80]} must be named")
    return Call(name, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords})


# Brackets and strings. A string that is not closed ends with its line, and one in three quotes with the text: whatever
# is looked at is looked at once.
_TOKENS = re.compile(
    r"""[\[({]|[\])}]|'''(?:[^'\\]|\\.|'(?!''))*(?:''')?|'(?:[^'\\\n]|\\.)*'?"""
    r'''|"""(?:[^"\\]|\\.|"(?!""))*(?:""")?|"(?:[^"\\\n]|\\.)*"?''',
    re.DOTALL,
)


def _closed(text: str, start: int) -> int | None:
    """Where the bracket at `start` is closed, strings left aside; None: not within what is looked at."""
    depth = 0
    for token in _TOKENS.finditer(text, start, start + ARGUMENTS_LIMIT):
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return None


def _skip(text: str, at: int, also: str = "") -> int:
    while at < len(text) and (text[at].isspace() or text[at] in also):
        at += 1
    return at
