"""Objects whose methods are tools: one for each attempt, each in a thread of its own, used again after `reset`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from temper import streams
from temper.errors import UserError
from temper.foreign.beside import Beside, Late, Worker
from temper.tasks.task import Task
from temper.tools.base import Fault, Result

RESERVED = ("reset", "get_reward")


class Room:
    """The objects of a run.

    places  attempts at once; seconds: of one call; shared: `random` is left as it is
    """

    def __init__(self, places: int, seconds: float, shared: bool):
        if places < 1 or seconds <= 0:
            raise UserError(f"an environment needs time and a place, got {seconds} s and {places} attempts")
        self.places, self.seconds, self.shared = places, seconds, shared
        self.beside = Beside("environment")
        self._idle: dict[str | None, list[Instance]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def instance(
        self, name: str | None, factory: Callable[[], Any] | None, task: Task
    ) -> AsyncIterator[Instance]:
        """One for an attempt at `task`. It is used again when the attempt went well."""
        if self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._free, self.one = asyncio.Semaphore(self.places), asyncio.Lock()
        async with self._free:
            made = self._idle[name].pop() if self._idle[name] else Instance(self, factory)
            made.random = random.Random(streams.key(0, "environment", task.id)).getstate()
            try:
                yield made
            except BaseException:
                made.worker.close()
                raise
            if made.worker.broken:
                made.worker.close()
            else:
                self._idle[name].append(made)

    async def aclose(self) -> None:
        """Close every object that can be closed, and end the threads."""
        for made in [m for idle in self._idle.values() for m in idle]:
            with contextlib.suppress(Exception):
                await made.run(getattr(made.object, "close", lambda: None))
            made.worker.close()
        self._idle.clear()
        await self.beside.aclose()


class Instance:
    """One object (None: there are only functions)."""

    def __init__(self, room: Room, factory: Callable[[], Any] | None):
        self.room, self._factory = room, factory
        self.object: Any = None
        self.worker = Worker("environment")
        self.random: Any = None  # the state of Python's generator, for this attempt

    @property
    def methods(self) -> list[Callable[..., Any]]:
        """The public ones, sorted by name."""
        if self.object is None:
            return []
        members = inspect.getmembers(type(self.object), predicate=inspect.isfunction)
        return [getattr(self.object, n) for n, _ in members if n not in RESERVED and not n.startswith("_")]

    async def begin(self, row: Mapping[str, Any]) -> Any:
        """Make the object if need be, and reset it."""
        if self._factory is None:
            return None
        if self.object is None:
            self.object = await self.run(self._factory)
        if not callable(getattr(self.object, "reset", None)):
            raise UserError(f"{type(self.object).__name__} has no reset method, which an environment of TRL needs")
        return await self.run(self.object.reset, **row)

    async def run(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call it: in its own thread, or where it is async in the loop of all. Raises what it raises, or Late."""
        if _is_async(function):
            return await self.room.beside.run(lambda: function(**arguments), self.room.seconds)
        if self.worker.broken:
            raise Late("the environment does not answer")
        if self.room.shared:
            return await self.worker.call(lambda: function(**arguments), self.room.seconds)
        async with self.room.one:
            outside = random.getstate()
            random.setstate(self.random)
            try:
                return await self.worker.call(lambda: function(**arguments), self.room.seconds)
            finally:
                self.random = random.getstate()
                random.setstate(outside)

    def tool(self, function: Callable[..., Any]) -> Method:
        return Method(self, function)


class Method:
    """A function or a method as a tool: what it raises is shown as TRL shows it; a lost connection is a fault."""

    cacheable, own_deadline = False, True

    def __init__(self, instance: Instance, function: Callable[..., Any]):
        described = described_as(function)
        self.name, self.description = described["name"], described["description"]
        self.parameters = described["parameters"]
        self._instance, self._function = instance, function

    async def __call__(self, **arguments: Any) -> Result:
        try:
            return Result(str(await self._instance.run(self._function, **arguments)))
        except Late:
            return Result(f"{self.name}: no result within {self._instance.room.seconds:g} s.", "timeout")
        except (ConnectionError, EOFError) as error:
            raise Fault(str(error))
        except Exception as error:
            return Result(str({"error": str(error)}), "tool error")


def described_as(function: Callable[..., Any]) -> dict[str, Any]:
    """Name, description and parameters, from type hints and a Google-style docstring, as transformers reads them."""
    from transformers.utils import get_json_schema

    try:
        found: dict[str, Any] = get_json_schema(function)["function"]
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise UserError(f"{name} cannot be a tool: {error}")
    return found


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
