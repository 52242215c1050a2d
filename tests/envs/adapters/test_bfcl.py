"""BFCL's multi-turn tasks, played and judged by its own package in an environment of its own (`temper setup bfcl`)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from temper import install
from temper.envs.adapters.bfcl import Bfcl, _Game, bfcl_tasks
from temper.episode import Episode
from temper.errors import UserError
from temper.models.tiny import tiny_tokenizer
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import Fault
from temper.tools.calls import MOST
from tests.envs.actors import Actor, seat
from tests.models import builders

needs_bfcl = pytest.mark.skipif(
    not (install.bfcl_folder() / "bin" / "python").exists(), reason="needs bfcl-eval: temper setup bfcl"
)
CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")


def truth(task: Task) -> list[list[list[Any]]]:
    """The expected calls [name, arguments] in each of the user's turns."""
    game = _Game(Bfcl(), task.id)
    game.begin()
    assert game.child is not None
    opening = game.child.ask({"op": "start", "id": task.id}, 60.0)
    game.close()
    calls: list[list[list[Any]]] = opening["truth"]
    return calls


def wrote(*calls: list[Any]) -> str:
    """As a policy writes calls."""
    asked = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in asked) or "I cannot do that."


def lines(turns: list[list[list[Any]]]) -> list[str]:
    """Each of the user's turns: its calls, as many at once as are read (`MOST`), then a word."""
    said = []
    for calls in turns:
        said += [wrote(*calls[k : k + MOST]) for k in range(0, len(calls), MOST)]
        said.append("Done." if calls else "Which one?")
    return said


def play(task: Task, says: list[str], tokenizer: Any = tiny_tokenizer, hook: Any = None, **options: Any) -> Episode:
    env = Bfcl(**options)

    def word(n: int) -> str:
        if hook is not None:
            hook(n)
        return says[min(n, len(says) - 1)]

    async def whole() -> Episode:
        try:
            actor = Actor(tokenizer(), word, context=1 << 20)
            return await env.play(task, {"solver": seat(actor, max_tokens=1 << 16)})
        finally:
            await env.aclose()

    return asyncio.run(whole())


def outcome(episode: Episode) -> tuple[float | None, Any]:
    (trajectory,) = episode.trajectories
    return trajectory.reward, trajectory.info["end"]


@needs_bfcl
@pytest.mark.parametrize("category", CATEGORIES)
def test_the_expected_calls_are_valid_and_others_are_not(category: Any) -> None:
    tasks = bfcl_tasks(category)
    assert len(tasks) == 200 and len({t.id for t in tasks}) == 200
    turns = truth(tasks[7])
    assert outcome(play(tasks[7], lines(turns))) == (1.0, "solved")
    wrong = [[[name, {**args, "nothing": 1}] for name, args in calls] for calls in turns]
    assert outcome(play(tasks[7], lines(wrong)))[0] == 0.0


@needs_bfcl
def test_more_calls_than_one_turn_may_have() -> None:
    task = Task("multi_turn_long_context_38", "It takes 34 calls at once.")
    assert outcome(play(task, lines(truth(task)))) == (1.0, "solved")


@pytest.fixture(scope="module")
def task() -> Task:
    return bfcl_tasks()[0]


@needs_bfcl
def test_a_conversation(task: Task) -> None:
    """Tools in the opening, results as tool messages, the user's next turn after one without calls."""
    calls = truth(task)
    said = [
        wrote(calls[0][0]), wrote(["pwd", {}], ["nothing", {}], ["mkdir", {"a b": 1}]), wrote(*calls[0][1:]), "Done."
    ]  # fmt: skip
    episode = play(task, said + lines(calls[1:]))
    assert outcome(episode) == (1.0, "solved")
    texts = [t.text for t in episode.turns if t.author == "env"]
    assert texts[0] == task.messages[-1]["content"] and "document" in texts[1]
    assert "current_working_directory" in texts[2] and texts[2].count("Error during execution: name") == 2
    assert episode.trajectories[0].info["calls"] == sum(map(len, calls)) + 3
    assert episode.trajectories[0].info["user_turns"] == len(calls) == task.info["user_turns"]


@needs_bfcl
def test_a_state_that_differs_is_invalid(task: Task) -> None:
    calls = truth(task)
    more = [[*calls[0], ["touch", {"file_name": "extra"}]], *calls[1:]]
    assert outcome(play(task, lines(more))) == (0.0, "multi_turn:instance_state_mismatch")
    assert outcome(play(task, ["I cannot do that."]))[1] == "multi_turn:empty_turn_model_response"
    fewer = [*calls[:-1], [["pwd", {}]]]
    assert outcome(play(task, lines(fewer)))[0] == 0.0


@needs_bfcl
@pytest.mark.parametrize("family", ["tiny", "gemma", "qwen3"])
def test_functions_that_come_later(family: str) -> None:
    """With a template that shows tools (in a fresh context), and with such as do not (in the user's message)."""
    tokenizer = tiny_tokenizer if family == "tiny" else getattr(builders, f"{family}_tokenizer")
    task = bfcl_tasks("multi_turn_miss_func")[0]
    episode = play(task, lines(truth(task)), tokenizer)
    assert outcome(episode) == (1.0, "solved")
    added = [t for t in episode.turns if t.author == "env" and "updated some more functions" in t.text]
    assert len(added) == 1 and (added[0].parent == -1) == (family == "tiny")


@needs_bfcl
def test_what_a_policy_cannot_make_of_it(task: Task) -> None:
    """It ends with reward 0, and never with a dropped attempt: too many steps, calls that take for ever, no room."""
    assert outcome(play(task, [wrote(["pwd", {}])], steps=3)) == (0.0, "multi_turn:force_terminated")
    endless = wrote(["power", {"base": 9, "exponent": 9**10}])
    calculator = Task("multi_turn_base_15", "It has the class MathAPI.")
    assert outcome(play(calculator, [endless], seconds=0.7)) == (0.0, "timeout")
    assert outcome(play(task, lines(truth(task)), tokens=100))[0] == 0.0
    deep = '<tool_call>{"name": "pwd", "arguments": {"a": ' + "[" * 3000 + "]" * 3000 + "}}</tool_call>"
    for odd in (
        "<tool_call>{</tool_call>",
        deep,
        wrote(["__import__('os').abort", {}]),
        wrote(["pwd", {"\0": "\ud800"}]),
    ):
        assert outcome(play(task, [odd, "Done."]))[0] == 0.0


@needs_bfcl
def test_a_process_that_is_killed_drops_the_attempt(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    games: list[_Game] = []
    begin = _Game.begin
    monkeypatch.setattr(_Game, "begin", lambda self: (games.append(self), begin(self))[1])
    said = lines(truth(task))

    def kill(n: int) -> None:
        if n == 1:
            assert games[-1].child is not None
            os.kill(games[-1].child.process.pid, signal.SIGKILL)

    with pytest.raises(Drop, match="bfcl process"):
        play(task, said, hook=kill)
    assert outcome(play(task, said)) == (1.0, "solved")


@needs_bfcl
def test_so_many_processes_at_once_and_the_rest_wait(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = [0, 0]
    begin, close = _Game.begin, _Game.close

    def counted(game: _Game) -> None:
        alive[0] += 1
        alive[1] = max(alive)
        begin(game)

    monkeypatch.setattr(_Game, "begin", counted)
    monkeypatch.setattr(_Game, "close", lambda game: (alive.__setitem__(0, alive[0] - 1), close(game)))

    async def whole() -> list[Episode]:
        env = Bfcl(processes=3)
        actors = [Actor(tiny_tokenizer(), lambda n: "No.", context=1 << 20) for _ in range(8)]
        played = await asyncio.gather(*(env.play(task, {"solver": seat(a)}) for a in actors))
        await env.aclose()
        return played

    assert [outcome(e)[0] for e in asyncio.run(whole())] == [0.0] * 8
    assert alive == [0, 3]
    with pytest.raises(UserError, match="positive"):
        Bfcl(processes=0)


def test_environments_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_BFCL", str(tmp_path))
    with pytest.raises(UserError, match="temper setup bfcl"):
        bfcl_tasks()
    with pytest.raises(Fault, match="cannot start"):
        bfcl_tasks(python=str(tmp_path / "none"))
