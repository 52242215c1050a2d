"""A place beside the run for somebody else's code: it may block, hang or break without stopping the run."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from temper.tools.base import cut

GRACE = 1.0  # seconds in which a loop has to answer; one that does not is left behind


class Late(Exception):
    """The deadline passed."""


class Beside:
    """An event loop in a thread of its own: one for an environment, however many attempts it plays.

    What blocks its loop cannot be killed: after its deadline the loop is left behind, and the next work gets a new one.
    """

    def __init__(self, name: str):
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Callable[[], Coroutine[Any, Any, Any]], seconds: float) -> Any:
        """What `work()` returns or raises, there. Raises Late after `seconds`; it is cancelled then."""
        loop = self._running()
        there = asyncio.run_coroutine_threadsafe(work(), loop)
        here = asyncio.ensure_future(asyncio.wrap_future(there))
        try:
            await asyncio.wait([here], timeout=seconds)
            if here.done():
                return here.result()
        finally:
            here.cancel()
        if not await _answers(loop) and self._loop is loop:
            self._loop = None
        raise Late(f"no end within {seconds:g} s")

    async def aclose(self) -> None:
        """End the loop, and cancel what still runs in it."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        ended = asyncio.run_coroutine_threadsafe(_cancelled(), loop)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.wrap_future(ended), GRACE)
        loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(self._loop,), name=f"temper-{self.name}", daemon=True).start()
        return self._loop


class Worker:
    """A thread that calls somebody else's functions one after another: what is bound to its thread stays there.

    broken  a call did not end: the thread is left behind with it, and takes no more
    """

    def __init__(self, name: str):
        self.broken = False
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"temper-{name}", daemon=True).start()

    async def call(self, function: Callable[[], Any], seconds: float) -> Any:
        """What `function()` returns or raises. Raises Late after `seconds`."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def deliver(end: tuple[Any, BaseException | None]) -> None:
            if not over.done():
                over.set_result(end)

        def work() -> None:
            try:
                end: tuple[Any, BaseException | None] = function(), None
            except BaseException as error:
                end = None, error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(deliver, end)

        self._calls.put(work)
        try:
            await asyncio.wait([over], timeout=seconds)
        finally:
            self.broken = self.broken or not over.done()
        if not over.done():
            raise Late(f"no end within {seconds:g} s")
        value, error = over.result()
        if error is not None:
            raise error if isinstance(error, Exception) else RuntimeError(repr(error))
        return value

    def close(self) -> None:
        """End the thread, when it is free."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


def finite(value: Any) -> float | None:
    """A reward: a finite number (True is 1), None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def parts(rewards: Mapping[str, Any] | None) -> dict[str, float]:
    """The finite ones of several named rewards."""
    found = {str(name): finite(value) for name, value in (rewards or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def readable(text: str, limit: int) -> str:
    """At most about `limit` characters, which a tokenizer can encode: no lone surrogates."""
    return cut(text, limit).encode("utf-8", "replace").decode()


def brief(error: BaseException) -> str:
    """An exception in one short line."""
    return readable(f"{type(error).__name__}: {error}".partition("\n")[0], 200)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


async def _answers(loop: asyncio.AbstractEventLoop) -> bool:
    ping = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop))
    done, _ = await asyncio.wait([ping], timeout=GRACE)
    return bool(done)


async def _cancelled() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
