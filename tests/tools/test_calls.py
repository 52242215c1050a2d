"""Calls in sampled text: every format, and whatever else a model writes."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from temper.errors import UserError
from temper.tools.base import DEPTH_LIMIT, Call, Result
from temper.tools.calls import FORMATS, MOST, Found, Tags, apart, find, parse

TAGS = Tags({"search": ("search", "query"), "code": ("python", "code")})
HERMES = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def refused(calls: list[Call | Result], count: int = 1) -> bool:
    return len(calls) == count and all(isinstance(c, Result) and c.outcome == "refused" for c in calls)


@pytest.mark.parametrize(
    "text, format, expected",
    [
        (f"Let me see.\n{HERMES}\nand {HERMES}", "hermes", [Call("f", {"a": 1})] * 2),
        ('<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>', "hermes", [Call("f", {"a": 1})]),
        ('<tool_call>{"name": "f"}</tool_call>', "hermes", [Call("f", {})]),
        (
            '<tool_call>{"name": "f", "arguments": {"s": "</tool_call><tool_call>"}}</tool_call>',
            "hermes",
            [Call("f", {"s": "</tool_call><tool_call>"})],
        ),
        ("No call here.", "hermes", []),
        ('{"name": "f", "parameters": {"a": 1}}; {"name": "g"}', "llama", [Call("f", {"a": 1}), Call("g", {})]),
        ('Hm.<|python_tag|>{"name": "f", "parameters": {}}', "llama", [Call("f", {})]),
        ('I would write {"name": "f"}', "llama", []),
        ('[f(a=1, s="[x)"), g.h(b=[1, {"k": None}])]', "pythonic", [Call("f", {"a": 1, "s": "[x)"})]),
        ("text [f(a=1)]", "pythonic", []),
        ("so:\n```python\nprint(1)\n```\nthen", "fenced", [Call("python", {"code": "print(1)\n"})]),
        ("```\nnot a call\n```\n```py\nx\n```", "fenced", [Call("python", {"code": "x\n"})]),
        ("```python\n```", "fenced", [Call("python", {"code": ""})]),
    ],
)
def test_reads(text: str, format: str, expected: list[Call]) -> None:
    assert parse(text, format)[: len(expected) or None] == expected


def test_pythonic_values() -> None:
    assert parse("[f(a='''it is \"]\\n)]''')]", "pythonic") == [Call("f", {"a": 'it is "]\n)]'})]
    assert parse('[f(a="""\n"x")]\n""")]', "pythonic") == [Call("f", {"a": '\n"x")]\n'})]
    assert parse("[f(a='\\'])', b=1,  # it's\n c=2)] end", "pythonic") == [Call("f", {"a": "'])", "b": 1, "c": 2})]
    assert parse('[f(), g.h(b=[1, {"k": None}])]', "pythonic") == [Call("f", {}), Call("g.h", {"b": [1, {"k": None}]})]


def test_tags() -> None:
    calls = parse("<search> tides </search><code>1 < 2</code><other>x</other>", TAGS)
    assert calls == [Call("search", {"query": "tides"}), Call("python", {"code": "1 < 2"})]
    assert refused(parse("<search>a <search>b</search></search>", TAGS))
    assert refused(parse("<search>a", TAGS))


def test_places() -> None:
    (found,) = find(f"ab {HERMES} cd")
    assert (found.start, found.end) == (3, 3 + len(HERMES))


@pytest.mark.parametrize(
    "text, format",
    [
        ("<tool_call>{'name': 'f'}</tool_call>", "hermes"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}', "hermes"),
        ('<tool_call>{"name": "f"} and more</tool_call>', "hermes"),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "hermes"),
        ('<tool_call>{"name": 3}</tool_call>', "hermes"),
        ('<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', "hermes"),
        ("<tool_call>" + "[" * 90_000 + "</tool_call>", "hermes"),
        ("<tool_call></tool_call>", "hermes"),
        ("<tool_call><tool_call>" + '{"name": "f"}' + "</tool_call></tool_call>", "hermes"),
        ('{"name": "f", "parameters": {', "llama"),
        ("[f(1)]", "pythonic"),
        ("[f(a=g())]", "pythonic"),
        ("[f(**{})]", "pythonic"),
        ("[f(a=" + "-" * 50_000 + "1)]", "pythonic"),
        ("[f(a=" + "(" * 50_000, "pythonic"),
        ("[f(a=__import__('os').system('x'))]", "pythonic"),
        ("[f(a=b'x')]", "pythonic"),
        ("[f(a={1, 2})]", "pythonic"),
        ("[f(a=...)]", "pythonic"),
        ("[f(a={(1, 2): 3})]", "pythonic"),
        ("[f(a=0x" + "f" * 90_000 + ")]", "pythonic"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>', "hermes"),
        ("```python\nprint(1)", "fenced"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, format: str) -> None:
    assert refused(parse(text, format))


def lists(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth - 1):
        inner = [inner]
    return inner


@pytest.mark.parametrize("depth", [DEPTH_LIMIT + 1, 150, 330, 700, 960])
@pytest.mark.parametrize(
    "text, format",
    [
        ('<tool_call>{"name": "f", "arguments": {"a": [deep]}}</tool_call>', "hermes"),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": [deep]}"}</tool_call>', "hermes"),
        ('{"name": "f", "parameters": {"a": [deep]}}', "llama"),
        ("[f(a=[deep])]", "pythonic"),
        ("[deep]", lambda text: iter([Found(Call("f", {"a": lists(len(text) // 2)}), 0, len(text))])),
    ],
)
def test_deep_arguments_are_refused(text: str, format: Any, depth: int) -> None:
    assert refused(parse(text.replace("[deep]", "[" * depth + "]" * depth), format))
    assert not refused(parse(text.replace("[deep]", "[" * 60 + "]" * 60), format))


@pytest.mark.parametrize(
    "text, format",
    [
        ('<tool_call>{"name": "f", "arguments": {"a": "' + "x" * 10_000_000 + '"}}</tool_call>', "hermes"),
        ('{"name": "f", "parameters": {"a": "' + "x" * 10_000_000 + '"}}', "llama"),
        ('[f(a="' + "x" * 10_000_000 + '")]', "pythonic"),
        ("```python\n" + "x" * 10_000_000 + "\n```", "fenced"),
        ("<search>" + "x" * 10_000_000 + "</search>", TAGS),
    ],
)
def test_ten_megabytes_are_refused_quickly(text: str, format: str) -> None:
    began = time.monotonic()
    assert refused(parse(text, format))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("piece", ["<tool_call>", "{", "[f(", "```python\n", "<search>", "<tool_call>{}</tool_call>"])
@pytest.mark.parametrize("format", [*FORMATS, TAGS])
def test_repeated_openings_take_no_time(piece: str, format: str) -> None:
    began = time.monotonic()
    assert len(parse(piece * 100_000, format)) <= MOST
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "head, piece, format",
    [
        ("[f(", "'\\", "pythonic"),
        ("[f(a=", '"\\', "pythonic"),
        ("[f(a=", "'''\\", "pythonic"),
        ("", "[f(\n", "pythonic"),
        ("", "[f(]\n", "pythonic"),
        ("", "[f(a='\n", "pythonic"),
        ("<tool_call>", " ", "hermes"),
        ('<tool_call>{"a": "', "\\", "hermes"),
        ("", '<tool_call>{"a":', "hermes"),
        ("{", '"a', "llama"),
        ("", "{;", "llama"),
        ("{};", ";", "llama"),
        ("", "``` \n x", "fenced"),
        ("", "```\n", "fenced"),
        ("<search>", "<code></search", TAGS),
    ],
)
def test_a_megabyte_of_the_worst_is_read_in_time(head: str, piece: str, format: Any) -> None:
    text = head + piece * (1_000_000 // len(piece))
    began = time.process_time()
    assert len(parse(text, format)) <= MOST
    assert time.process_time() - began < 3


def test_any_text_is_read_without_an_exception() -> None:
    rng = random.Random(0)
    pieces = ["<tool_call>", "</tool_call>", '{"name": "f"', ', "arguments":', "{", "}", "[", "]", "f(a=", ")", "```"]
    pieces += ["python\n", "\n", '"', "\\", "\x00", "\ud800", "é", "<search>", "</search>", "1e999", "null", "=", ","]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randrange(25)))
        for format in (*FORMATS.values(), TAGS):
            for found in find(text, format):
                assert 0 <= found.start <= found.end <= len(text)


def test_unknown_format() -> None:
    with pytest.raises(UserError, match="formats: hermes"):
        parse("", "xml")


@pytest.mark.parametrize(
    "text, rest, calls",
    [
        ("No call.\n", "No call.\n", []),
        (f"So\n {HERMES}\n{HERMES}\nand", "So\nand", [("f", '{"a": 1}')] * 2),
        (f"So\n<tool_call>no JSON</tool_call>{HERMES}", "So\n<tool_call>no JSON</tool_call>", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "a"}</tool_call>', None, []),
        (HERMES.replace('{"a": 1}', '{"é": "<tool_call>"}') + "!", "!", [("f", '{"é": "<tool_call>"}')]),
        (HERMES[:-1], None, []),
    ],
)  # fmt: skip
def test_calls_apart_from_the_text(text: str, rest: str | None, calls: list[tuple[str, str]]) -> None:
    left, found = apart(text, "c-")
    assert left == (text if rest is None else rest)
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in found] == calls
    assert [(c["id"], c["type"]) for c in found] == [(f"c-{n}", "function") for n in range(len(calls))]
