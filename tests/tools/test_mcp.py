"""Tools of real MCP servers, over standard streams and over HTTP; and of servers that break the protocol."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from temper.envs.tools import ToolUse
from temper.errors import UserError
from temper.models.tiny import tiny_tokenizer
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import Call, Result, Toolbox
from tests.envs.actors import Actor, says, seat

if not hasattr(pytest.importorskip("mcp"), "Client"):
    pytest.skip("needs mcp 2.3", allow_module_level=True)
from temper.tools.mcp import McpServer

HERE = Path(__file__).parent
GOOD = [sys.executable, str(HERE / "mcp_program.py")]


def play(box: Toolbox, *episodes: list[Call]) -> list[list[Result]]:
    """Each list of calls in an episode of its own."""

    async def all() -> list[list[Result]]:
        out = []
        for calls in episodes:
            async with box.episode() as tools:
                out.append([await tools.run(call) for call in calls])
        return out

    return asyncio.run(all())


@pytest.fixture(scope="module")
def box() -> Iterator[Toolbox]:
    server = McpServer(GOOD, seconds=5.0, env={"GIVEN": "1"})
    yield Toolbox(server.tools())
    server.close()


def test_tools_are_listed(box: Toolbox) -> None:
    add = box.schemas[list(box.tools).index("add")]["function"]
    assert add["description"] == "The sum of two numbers."
    assert add["parameters"]["properties"]["a"]["type"] == "integer" and add["parameters"]["required"] == ["a"]


def test_an_episode_has_a_server_of_its_own(box: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state, and nothing of this process's environment but what is named."""
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    notes = [Call("note", {"text": "a"}), Call("note", {"text": "b"}), Call("about")]
    first, second = play(box, notes, notes)
    assert [r.text for r in first[:2]] == [r.text for r in second[:2]] == ["a", "a, b"]
    told = [json.loads(r[2].text) for r in (first, second)]
    assert told[0]["process"] != told[1]["process"]
    assert "GIVEN" in told[0]["variables"] and "SECRET_TOKEN" not in told[0]["variables"]
    for process in told:
        with pytest.raises(ProcessLookupError):
            os.kill(process["process"], 0)


def test_outcomes(box: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next(iter(box.tools.values())).server, "seconds", 2.0)
    calls = {
        "ok": Call("add", {"a": 1}), "tool error": Call("fail", {"why": "no"}), "wrong": Call("add", {"a": "one"}),
        "timeout": Call("sleep", {"seconds": 60}), "refused": Call("rm"), "odd": Call("odd"), "noise": Call("noise"),
        "fault": Call("die"), "again": Call("add", {"a": 2}),
    }  # fmt: skip
    results = dict(zip(calls, play(box, list(calls.values()))[0]))
    got = {name: r.outcome for name, r in results.items()}
    assert got == {**{n: n for n in calls}, "wrong": "tool error", "odd": "ok", "noise": "ok", "again": "ok"}
    assert results["ok"].text == "2" and "<|im_end|>" in results["odd"].text


def test_long_results_are_cut(box: Toolbox) -> None:
    result = play(box, [Call("long", {"n": 10_000_000})])[0][0]
    assert result.outcome in ("ok", "timeout") and len(result.text) < 5000


def test_a_server_that_dies_drops_the_episode_and_the_next_has_a_new_one(box: Toolbox) -> None:
    def attempt(*lines: str) -> Any:
        actor = Actor(tiny_tokenizer(), says(*lines))
        return asyncio.run(ToolUse(box).play(Task("t", "Add."), {"solver": seat(actor, max_tokens=200)}))

    call = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
    with pytest.raises(Drop, match="tool fault"):
        attempt(call.format("die", "{}"), "done")
    episode = attempt(call.format("add", '{"a": 41}'), "It is 42.")
    assert episode.turns[2].text == "42" and episode.trajectories[0].info["outcomes"] == {"ok": 1}


def test_many_episodes_at_once() -> None:
    server = McpServer(GOOD, shared=True)
    box = Toolbox(server.tools(["add", "about"], prefix="x_"))

    async def one(n: int) -> str:
        async with box.episode() as tools:
            return (await tools.run(Call("x_add", {"a": n}))).text

    async def all() -> list[str]:
        return await asyncio.gather(*map(one, range(40)))

    assert asyncio.run(all()) == [str(n + 1) for n in range(40)]
    shared = play(box, [Call("x_about")], [Call("x_about")])
    process = json.loads(shared[0][0].text)["process"]
    assert json.loads(shared[1][0].text)["process"] == process
    os.kill(process, signal.SIGKILL)
    outcomes = [r.outcome for r in play(box, [Call("x_add", {"a": 1})] * 2)[0]]
    assert outcomes in (["fault", "ok"], ["ok", "ok"])
    asyncio.run(box.close())


# over HTTP ------------------------------------------------------------------------------------------------------------


def test_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*GOOD, "http", str(port)], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        server = McpServer(f"http://127.0.0.1:{port}/mcp", headers={"x-a": "b"}, seconds=2.0, start_seconds=5.0)
        box = Toolbox(server.tools())
        results = play(box, [Call("add", {"a": 1}), Call("fail", {"why": "no"}), Call("sleep", {"seconds": 60})])[0]
        assert [r.outcome for r in results] == ["ok", "tool error", "timeout"]
        process.kill()
        process.wait()
        assert play(box, [Call("add", {"a": 1})])[0][0].outcome == "fault"
        server.close()
        with pytest.raises(UserError, match="cannot list"):
            server.tools()
    finally:
        process.kill()
        process.wait()


# servers that break the protocol --------------------------------------------------------------------------------------


def hostile(how: str) -> McpServer:
    seconds = 0.3 if how == "no answer" else 5.0
    start = 1.5 if how == "silent" else 20.0
    return McpServer([sys.executable, str(HERE / "mcp_hostile.py"), how], seconds=seconds, start_seconds=start)


@pytest.mark.parametrize(
    "how, outcome, text",
    [
        ("fine", "ok", "fine"),
        ("garbage", "ok", "fine"),
        ("invalid UTF-8", "ok", "fine"),
        ("boolean schema", "ok", "fine"),
        ("references", "ok", "fine"),
        ("structured", "ok", '{"a": [1, null]}'),
        ("picture", "ok", "image/png"),
        ("resource", "ok", "inside\n[other: file:///b]"),
        ("no answer", "timeout", "no result"),
        ("unknown tool", "refused", "Unknown tool"),
        ("error", "tool error", "inside"),
        ("no result", "fault", "ValidationError"),
        ("half a line", "fault", "closed"),
    ],
)
def test_whatever_a_server_answers_is_one_outcome(how: str, outcome: str, text: str) -> None:
    server = hostile(how)
    result = play(Toolbox(server.tools()), [Call("f", {"a": "b"})])[0][0]
    server.close()
    assert result.outcome == outcome and text in result.text


def test_schemas_of_true_and_false() -> None:
    server = hostile("boolean schema")
    results = play(Toolbox(server.tools()), [Call("f", {"a": [1]}), Call("f", {"b": 1})])[0]
    server.close()
    assert [r.outcome for r in results] == ["ok", "tool error"]


@pytest.mark.parametrize(
    "how, why",
    [("exits", "there is no disk"), ("silent", "not ready"), ("no tools", "at all"), ("no schema", "not valid")],
)
def test_servers_without_usable_tools_are_the_users_to_mend(how: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        hostile(how).tools()


def test_what_a_recipe_asks_wrongly() -> None:
    with pytest.raises(UserError, match="no tool rm"):
        McpServer(GOOD).tools(["rm"])
    with pytest.raises(UserError, match="positive"):
        McpServer([], seconds=1.0)
    with pytest.raises(UserError, match="cannot list"):
        McpServer(["/no/such/program"]).tools()


def test_an_endless_list_ends() -> None:
    server = hostile("endless")
    assert len({tool.name for tool in server.tools()}) == 1
    server.close()


@pytest.mark.skipif(importlib.util.find_spec("mcp_server_time") is None, reason="needs mcp-server-time")
def test_a_server_of_somebody_else() -> None:
    """mcp-server-time, unchanged."""
    server = McpServer([sys.executable, "-m", "mcp_server_time", "--local-timezone", "Europe/Oslo"])
    box = Toolbox(server.tools())
    assert set(box.tools) == {"get_current_time", "convert_time"}
    oslo = {"source_timezone": "Europe/Oslo", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    results = play(box, [Call("convert_time", oslo), Call("get_current_time", {"timezone": "Mars/North"})])[0]
    server.close()
    assert results[0].outcome == "ok" and "Asia/Tokyo" in results[0].text
    assert results[1].outcome == "tool error"
