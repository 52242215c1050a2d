"""The box: checked arguments, deadlines, outcomes, cache."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from temper.errors import UserError
from temper.tools.base import Call, Fault, Result, Toolbox, cut, schema
from temper.tools.schema import complaint

RULES = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
        "s": {"type": ["string", "null"], "maxLength": 3},
        "kind": {"enum": ["a", "b"]},
        "items": {"type": "array", "items": {"type": "number"}},
        "deep": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]},
    },
    "required": ["n"],
}


class Echo:
    name = "echo"
    description = "Says it again."
    parameters: Mapping[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    def __init__(self, does: Any = None):
        self.does, self.calls, self.closed = does, 0, 0

    async def __call__(self, n: int) -> Result:
        self.calls += 1
        if isinstance(self.does, BaseException):
            raise self.does
        if self.does is not None:
            await asyncio.sleep(self.does)
        return Result(str(n))

    def fresh(self) -> Echo:
        return Echo(self.does)

    def close(self) -> None:
        self.closed += 1


def run(box: Toolbox, *calls: Call | Result) -> list[Result]:
    async def every() -> list[Result]:
        return [await box.run(call) for call in calls]

    return asyncio.run(every())


@pytest.mark.parametrize(
    "arguments, wrong",
    [
        ({"n": 1}, None),
        ({"n": 1.0, "s": None, "kind": "a", "items": [1, 2.5], "deep": {"x": True}}, None),
        ({}, "n is missing"),
        ({"n": "1"}, "n must be integer, not string"),
        ({"n": True}, "n must be integer, not boolean"),
        ({"n": 1.5}, "n must be integer, not number"),
        ({"n": 10}, "n is more than 9"),
        ({"n": -1}, "n is less than 0"),
        ({"n": 1, "s": "long"}, "s is more than 3 characters long"),
        ({"n": 1, "s": 2}, "s must be string or null, not integer"),
        ({"n": 1, "kind": "c"}, "kind must be one of 'a', 'b'"),
        ({"n": 1, "items": [1, "x"]}, "items[1] must be number, not string"),
        ({"n": 1, "deep": {}}, "deep.x is missing"),
        ({"n": 1, "q": 2}, "q is not a parameter (there are: n, s, kind, items, deep)"),
        ([1], "arguments must be an object, not array"),
    ],
)
def test_arguments(arguments: Any, wrong: str | None) -> None:
    assert complaint(arguments, RULES) == wrong


def test_outcomes() -> None:
    box = Toolbox([Echo()])
    results = run(
        box, Call("echo", {"n": 1}), Call("other"), Call("echo"), Call("echo", {"n": {1}}), Result("?", "refused")
    )
    assert [r.outcome for r in results] == ["ok", "refused", "tool error", "tool error", "refused"]
    assert results[1].text == "There is no tool 'other'. Tools: echo."
    assert box.counts == {"ok": 1, "refused": 2, "tool error": 2}


@pytest.mark.parametrize(
    "does, outcome",
    [
        (5, "timeout"),
        (ValueError("no"), "tool error"),
        (FileNotFoundError("f"), "tool error"),
        (Fault("down"), "fault"),
        (ConnectionResetError("down"), "fault"),
        (TimeoutError(), "timeout"),
    ],
)
def test_what_a_tool_does_is_an_outcome(does: Any, outcome: str) -> None:
    assert run(Toolbox([Echo(does)], timeout=0.05), Call("echo", {"n": 1}))[0].outcome == outcome


def test_what_a_recipe_asks_for_is_an_error() -> None:
    with pytest.raises(UserError):
        run(Toolbox([Echo(UserError("not here"))]), Call("echo", {"n": 1}))
    with pytest.raises(UserError, match="same name"):
        Toolbox([Echo(), Echo()])


def test_arguments_of_ten_megabytes() -> None:
    (result,) = run(Toolbox([Echo()]), Call("echo", {"n": "x" * 10_000_000}))
    assert result.outcome == "refused"
    assert len(result.text) < 200


def test_lone_surrogates_never_come_back() -> None:
    results = run(Toolbox([Echo()]), Call("echo", {"n": 1, "\ud800": 2}), Result("\udfff", "refused"))
    assert results[0].text.startswith("echo: ? is not a parameter")
    assert results[1].text == "?"


def test_cache_remembers_by_arguments() -> None:
    tool = Echo()
    box = Toolbox([tool], cache=True)
    run(box, Call("echo", {"n": 1}), Call("echo", {"n": 1}), Call("echo", {"n": 2}))
    assert tool.calls == 2
    assert box.counts["ok"] == 3
    failing = Echo(Fault("down"))
    run(Toolbox([failing], cache=True), Call("echo", {"n": 1}), Call("echo", {"n": 1}))
    assert failing.calls == 2


def test_an_episode_has_its_own_tools() -> None:
    tool = Echo()
    box = Toolbox([tool])

    async def play() -> Any:
        async with box.episode() as tools:
            await tools.run(Call("echo", {"n": 1}))
            return tools.tools["echo"]

    own = asyncio.run(play())
    assert (own.calls, own.closed, tool.calls, tool.closed) == (1, 1, 0, 0)
    assert box.counts == {"ok": 1}


def test_a_failing_close_leaves_the_others_closed() -> None:
    class Bad(Echo):
        name = "bad"

        def close(self) -> None:
            raise OSError("gone")

    good = Echo()
    with pytest.raises(OSError, match="gone"):
        asyncio.run(Toolbox([Bad(), good]).close())
    assert good.closed == 1


def test_cut() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefgh", 4) == "ab\n[… 4 characters left out …]\ngh"


def test_schema() -> None:
    described = schema(Echo())
    assert described["type"] == "function"
    assert described["function"]["name"] == "echo"
