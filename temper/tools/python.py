"""The Python tool: a policy's code, run where it can do no harm (see `sandbox` for what that means).

Python()                                    a new interpreter for every call
Python(persistent=True)                     one interpreter an episode: variables stay
Python(packages=("numpy",), limits=Limits(memory=2 << 30))
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from temper.errors import UserError
from temper.tools.base import Fault, Result
from temper.tools.sandbox import Answer, Interpreter, Limits, Server

ONE_SHOT = "Runs Python code and returns what it prints. Nothing is remembered between calls."
PERSISTENT = "Runs Python code and returns what it prints. Variables are remembered between calls."


class Python:
    """Runs code. The value of a last bare expression is printed too (`echo`).

    seconds     wall time of one call, from the moment an interpreter is free for it
    packages    importable names beside the standard library: imported once, then there in every interpreter
    workers     calls that run at once; others wait
    """

    name = "python"
    cacheable = False  # code may look at the time, and draws random numbers
    own_deadline = True  # waiting for a free worker is not the policy's fault

    def __init__(
        self,
        persistent: bool = False,
        *,
        seconds: float = 5.0,
        packages: tuple[str, ...] = (),
        limits: Limits | None = None,
        echo: bool = True,
        workers: int | None = None,
    ):
        if seconds <= 0:
            raise UserError(f"the Python tool needs a positive time, got {seconds}")
        self.persistent, self.seconds = persistent, seconds
        self.description = PERSISTENT if persistent else ONE_SHOT
        self.workers = workers or len(os.sched_getaffinity(0))
        self.server = Server(limits or Limits(), packages=packages, echo=echo, spares=self.workers)
        self._turns: tuple[Any, asyncio.Semaphore] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        code = {"type": "string", "description": "Python code; print what you want to see"}
        return {"type": "object", "properties": {"code": code}, "required": ["code"]}

    async def __call__(self, code: str) -> Result:
        if self.persistent:
            raise Fault("a persistent interpreter belongs to an episode: use Toolbox.episode()")
        one = None
        async with self.turn():
            try:
                one = self.server.interpreter()
                return self.result(await one.run(code, self.seconds))
            finally:
                if one is not None:
                    one.close()

    def fresh(self) -> Python | Session:
        """For one episode."""
        return Session(self) if self.persistent else self

    def close(self) -> None:
        """End every process; the tool may be used again."""
        self.server.close()

    def turn(self) -> asyncio.Semaphore:
        """What a call holds while it runs, in the running event loop."""
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not loop:
            self._turns = loop, asyncio.Semaphore(self.workers)
        return self._turns[1]

    def result(self, answer: Answer) -> Result:
        """What the policy sees: the output, and why it ended if that is not in it."""
        text = answer.output.rstrip("\n")
        if answer.outcome == "timeout":
            text += f"\n[stopped: no end within {self.seconds:g} s]"
        elif not answer.alive:
            text += "\n[stopped: the interpreter ended: a limit, a crash, or an exit]"
        return Result(text.lstrip("\n"), answer.outcome)


class Session:
    """The persistent interpreter of one episode; a new one, without the variables, when it had to be stopped."""

    name = Python.name
    cacheable = False
    own_deadline = True

    def __init__(self, tool: Python):
        self.tool, self.description, self.parameters = tool, tool.description, tool.parameters
        self._one: Interpreter | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, code: str) -> Result:
        async with self._lock, self.tool.turn():
            if self._one is None or self._one.closed:
                self._one = self.tool.server.interpreter()
            answer = await self._one.run(code, self.tool.seconds)
        result = self.tool.result(answer)
        return result if answer.alive else Result(f"{result.text}\n[the variables are lost]", result.outcome)

    def close(self) -> None:
        """End the process."""
        if self._one is not None:
            self._one.close()
            self._one = None
