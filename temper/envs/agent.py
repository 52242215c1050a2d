"""Bring your own agent: a program that talks to an OpenAI-compatible server plays the task, and is trained.

    Agent("python agent.py")       # finds OPENAI_BASE_URL and OPENAI_API_KEY in its environment, the task on stdin
    Agent(my_agent, judges=True)   # my_agent(task, base_url=…, api_key=…), plain or async; returns the reward

The key names the episode. Every call is recorded as turns, with the ids that were sampled (temper.gateway.recording).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.columns import REWARD, Column
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.gateway import programs
from temper.gateway.programs import End
from temper.gateway.recording import Recording
from temper.gateway.render import Renderer
from temper.gateway.server import Gateway
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

LOG = logging.getLogger("temper.agent")


@dataclass
class Agent:
    """The task is played by a program of yours; all of its chat completions make one trajectory.

    program  a function, called with the task, base_url and api_key, in a thread of its own; or a command line, as text
             or in words. A command reads the task's prompt from stdin (as JSON where it is messages), or finds it as
             TEMPER_TASK (JSON: id, prompt) in its environment
    timeout  seconds of one attempt; then a command's whole process group is killed, and the key opens nothing more
    programs how many run at once
    judges   what the program returns (a command: the last line that it prints) is the reward
    blame    an attempt that crashed or ran out of time is judged too; without it such an attempt has no reward, and its
             outcome says why. Where the policy has filled its own context it is always judged
    lost     the reward of an attempt that failed and is judged, where the program judges: at most that of a loss
    follow   sample as the program asks (temperature, top_p, top_k), not as the run does
    cwd      where a command runs

    An attempt without a call is dropped and counted. A client that goes away cancels what it asked for.
    """

    program: Callable[..., Any] | str | Sequence[str]
    role: str = "solver"
    timeout: float = 120.0
    programs: int = 16
    judges: bool = False
    blame: bool = False
    lost: float = 0.0
    follow: bool = False
    cwd: str | None = None

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.programs < 1:
            raise UserError(
                f"an agent needs time and a place to run, got {self.timeout} s and {self.programs} programs"
            )
        self._door: _Door | None = None
        self._told = False

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (REWARD,) if self.judges else ()

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles[self.role], Recorder(task)
        door = await self._opened()
        session = Recording(seat, record, door.renderer(seat), ends_of(seat), follow=self.follow)
        async with door.places:
            key = door.gateway.admit(session)
            try:
                end = await self._run(task, door.url, key)
            finally:
                door.gateway.revoke(key)
        self._tell(end)
        self._judge(record, session, end)
        return record.episode()

    async def aclose(self) -> None:
        """End the server; a later play starts another one."""
        door, self._door = self._door, None
        if door is not None and door.loop is asyncio.get_running_loop():
            await door.gateway.server.closed()

    async def _opened(self) -> _Door:
        """The server of the running loop, started by whoever comes first."""
        if self._door is None or self._door.loop is not asyncio.get_running_loop():
            self._door = _Door(self.programs)
        await asyncio.shield(self._door.started)
        return self._door

    async def _run(self, task: Task, url: str, key: str) -> End:
        if callable(self.program):
            return await programs.call(self.program, {"task": task, "base_url": url, "api_key": key}, self.timeout)
        prompt = task.prompt if isinstance(task.prompt, str) else json.dumps(task.prompt)
        return await programs.command(
            self.program, environ=environ(task, url, key), stdin=prompt, timeout=self.timeout, cwd=self.cwd
        )

    def _judge(self, record: Recorder, session: Recording, end: End) -> None:
        if not session.calls:
            raise Drop(_nothing(session, end))
        outcome = "ok" if end.how == "ok" else "timeout" if end.how == "timeout" else f"error: {end.why}"
        if outcome != "ok" and session.full:
            outcome = "context full"
        reward = None
        if self.judges and outcome == "ok":
            reward = number(end.value)
            outcome = "ok" if reward is not None else "error: the agent returned no number"
        info = {"calls": len(session.calls), "chains": session.chains, "forks": session.chains - 1, "ended": outcome}
        if outcome == "context full" or (self.blame and outcome != "ok"):
            outcome, reward = "ok", self.lost if self.judges else None
        record.judge(range(len(record.turns)), role=self.role, reward=reward, outcome=outcome, info=info)

    def _tell(self, end: End) -> None:
        """The first failure goes to the log in full: outcomes are only counted."""
        if end.how != "ok" and not self._told:
            self._told = True
            LOG.warning("an agent did not end well (%s): %s", end.how, end.why)


@dataclass
class _Door:
    """The gateway of one event loop."""

    programs: int
    gateway: Gateway = field(default_factory=Gateway)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.places = asyncio.Semaphore(self.programs)
        self.started = self.loop.create_task(self._start())
        self.url = ""
        self._renderers: dict[int, Renderer] = {}

    async def _start(self) -> None:
        self.url = await self.gateway.start()

    def renderer(self, seat: Seat) -> Renderer:
        """The tokenizer's; made once."""
        tokenizer = seat.tokenizer
        if id(tokenizer) not in self._renderers:
            self._renderers[id(tokenizer)] = Renderer(tokenizer, getattr(seat.policy.sampler, "context", 1 << 20))
        return self._renderers[id(tokenizer)]


def ends_of(seat: Seat) -> tuple[int, ...]:
    """The tokens that end a turn, for the sampler and for the template."""
    from temper.models.load import turn_ends

    ends: tuple[int, ...] = getattr(seat.policy.sampler, "end", ())
    return tuple(dict.fromkeys((*ends, *turn_ends(seat.tokenizer))))


def environ(task: Task, url: str, key: str) -> dict[str, str]:
    """The run's environment with the gateway in place of OpenAI, which no proxy may stand before."""
    near = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost")))
    shown = json.dumps({"id": task.id, "prompt": task.prompt})
    ours = {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": key, "NO_PROXY": near, "no_proxy": near}
    return {**os.environ, **ours, "TEMPER_TASK": shown}


def number(value: Any) -> float | None:
    """A reward: a finite number, or the last line of a text that is one."""
    if isinstance(value, str):
        value = (value.strip().splitlines() or [""])[-1]
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _nothing(session: Recording, end: End) -> str:
    if session.full:
        return "prompt too long"
    how = {"ok": "", "timeout": " before it ran out of time", "error": " before it crashed"}[end.how]
    return f"agent made no call{how}"
