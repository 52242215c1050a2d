"""The multi-turn tasks of the Berkeley Function Calling Leaderboard (Patil et al. 2025), judged by its own package.

    temper setup bfcl                                       an environment of its own for the package bfcl-eval
    env, tasks = Bfcl(), bfcl_tasks("multi_turn_base")

A user asks for several things in turn; the policy calls the functions of simulated classes (files, a trading bot, a
car, …) until it writes a turn without a call, and the user goes on. The calls run in a process of their own in another
Python environment, since bfcl-eval pins what Temper's other packages do not want. The reward is the package's verdict
(`multi_turn_checker`): the state of all classes after each of the user's turns, and the results of the expected calls.

As in the package: a call of a function that does not exist is an error message to the policy; a turn whose calls cannot
be read is a turn without a call; more than 20 steps in one of the user's turns fail the task. Otherwise than there, a
function can only be called by the names that the task documents (the package evaluates any Python expression).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from temper import foreign, install
from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.envs.tools import listed, told
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import OUTPUT_LIMIT, Call, Fault, cut
from temper.tools.calls import Reader, parse
from temper.tools.child import Child, Ended, Late, Said

Category = Literal["multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"]
START_SECONDS = 60.0
CPU_SECONDS = 600  # of a process, in all
_WORKER = Path(foreign.__file__).with_name("bfcl_worker.py")


def bfcl_tasks(category: Category = "multi_turn_base", python: str = "") -> list[Task]:
    """The package's tasks of a category (200 in each); `python`: see `Bfcl`."""
    child = _start(python)
    try:
        listed = child.ask({"op": "list", "category": category}, START_SECONDS)
    except (Late, Ended, Said) as error:
        raise UserError(f"bfcl-eval cannot list its tasks of {category!r}: {error}") from None
    finally:
        child.close()
    return [Task(one["id"], one["first"], source=category, info={"user_turns": one["turns"]}) for one in listed]


@dataclass
class Bfcl:
    """Reward: 1 where the package finds the attempt valid, else 0; info["end"] says why.

    A call that takes longer than `seconds`, or that the simulated classes do not survive in memory, ends the attempt
    with reward 0; a process that ends otherwise drops it.

    python     the interpreter of an environment with bfcl-eval (empty: that of `temper setup bfcl`)
    steps      most steps with calls in one of the user's turns
    tokens     most that the policy samples in all; longest: context (0: no limit)
    format     of calls: a name or a reader of `temper.tools.calls`
    limit      characters of a result that are shown
    processes  episodes at once; others wait
    """

    python: str = ""
    steps: int = 20
    tokens: int = 0
    longest: int = 0
    format: str | Reader = "hermes"
    seconds: float = 10.0
    limit: int = OUTPUT_LIMIT
    processes: int = 64
    writes = (REWARD,)

    def __post_init__(self) -> None:
        if self.processes < 1 or self.steps < 1 or self.seconds <= 0 or self.limit < 1:
            raise UserError("processes, steps, seconds and limit of BFCL must be positive")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._free = asyncio.get_running_loop(), asyncio.Semaphore(self.processes)
        self._threads = self._threads or ThreadPoolExecutor(self.processes, "temper-bfcl")
        async with self._free:
            return await self._play(task, roles["solver"])

    async def _play(self, task: Task, seat: Seat) -> Episode:
        chat = Chat(seat, Recorder(task), tokens=self.tokens, longest=self.longest)
        game = _Game(self, task.id)
        try:
            await self.within(game.begin)
            valid, end = await self._converse(chat, game)
        except _Over as over:
            valid, end = False, over.why
        except Fault as fault:
            raise Drop(f"bfcl process: {fault}") from None
        finally:
            await asyncio.shield(self.within(game.close))
        chat.judge(float(valid), info={"end": end, "user_turns": game.turn, "calls": game.calls})
        return chat.record.episode()

    async def within(self, work: Any, *arguments: Any) -> Any:
        """In a thread that is this episode's as long as it takes."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def aclose(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _converse(self, chat: Chat, game: _Game) -> tuple[bool, str]:
        """(valid, why it ended)."""
        for n, messages in enumerate(game.turns):
            shown = self._open(chat, game, messages) if n == 0 else chat.observe(self._next(chat, game, n, messages))
            if not shown:
                return False, chat.finish
            if not await self._turn(chat, game):
                return False, chat.finish or "multi_turn:force_terminated"
            game.turn += 1
        verdict: tuple[bool, str] = await self.within(game.judge)
        return verdict

    async def _turn(self, chat: Chat, game: _Game) -> bool:
        """The policy's steps until one without calls. False when it is not to go on."""
        for _ in range(self.steps + 1):
            said = await chat.say()
            if said is None:
                return False
            calls = parse(said.text, self.format)
            if not calls or not all(isinstance(c, Call) for c in calls):
                return True
            if not chat.may_go_on():
                return False
            results = await self.within(game.call, calls)
            if not chat.observe(self._results(chat, calls, results)):
                return False
        return False

    def _open(self, chat: Chat, game: _Game, messages: Sequence[Mapping[str, Any]]) -> bool:
        tools = [{"type": "function", "function": tool} for tool in game.tools]
        if chat.render.shows_tools(tools):
            return chat.start(messages, tools)
        return chat.start(told(chat.render, messages, tools))

    def _next(self, chat: Chat, game: _Game, n: int, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The user's next messages; functions that come with them join the tools (a fresh context shows them)."""
        added = [{"type": "function", "function": tool} for tool in game.later.get(str(n), ())]
        if added and "tools" in chat.options:
            chat.options["tools"] = [*chat.options["tools"], *added]
        elif added:
            functions = listed(chat.render, added, str(messages[0]["role"]))
            return [{**messages[0], "content": f"{functions}\n{messages[0]['content']}"}, *messages[1:]]
        return list(messages)

    def _results(self, chat: Chat, calls: Sequence[Any], results: Sequence[str]) -> list[dict[str, Any]]:
        texts = [cut(r.encode("utf-8", "replace").decode(), self.limit) for r in results]
        if not chat.render.knows("tool"):
            return [{"role": "user", "content": "\n\n".join(texts)}]
        return [{"role": "tool", "name": c.name, "content": text} for c, text in zip(calls, texts)]


class _Over(Exception):
    """The policy brought the attempt to its end."""

    def __init__(self, why: str):
        self.why = why


class _Game:
    """One episode's process. Methods block."""

    def __init__(self, env: Bfcl, id: str):
        self.env, self.id = env, id
        self.child: Child | None = None
        self.turn = self.calls = 0
        self.turns: list[Any] = []
        self.tools: list[Any] = []
        self.later: dict[str, list[Any]] = {}

    def begin(self) -> None:
        self.child = _start(self.env.python)
        try:
            opening = self.child.ask({"op": "start", "id": self.id}, START_SECONDS)
        except Late:
            raise Fault("not ready in time") from None
        except Said as error:
            raise UserError(f"bfcl-eval cannot begin the task {self.id!r}: {error}") from None
        self.turns, self.tools, self.later = opening["turns"], opening["tools"], opening["later"]

    def call(self, calls: Sequence[Call]) -> list[str]:
        self.calls += len(calls)
        asked = [[c.name, dict(c.arguments)] for c in calls]
        results: list[str] = self._ask({"op": "call", "turn": self.turn, "calls": asked})
        return results

    def judge(self) -> tuple[bool, str]:
        verdict = self._ask({"op": "judge", "turns": self.turn})
        return verdict["valid"], verdict["why"] or "solved"

    def close(self) -> None:
        if self.child is not None:
            self.child.close()

    def _ask(self, message: dict[str, Any]) -> Any:
        """What takes too long, or raises in the package, is what the policy's calls made of it."""
        assert self.child is not None
        try:
            return self.child.ask(message, self.env.seconds)
        except Late:
            raise _Over("timeout") from None
        except Said as error:
            raise _Over(f"error: {error}"[:200]) from None


def _start(python: str) -> Child:
    return Child(_WORKER, python=python or install.bfcl_python(), cpu=CPU_SECONDS)
