"""An event loop whose time is virtual: where nothing is left to do, it is the time of the next timer."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator
from typing import Any

REAL = 60.0  # real seconds that time stands still for what really goes on (a reward's process)


class _Jump(selectors.DefaultSelector):
    """Does not wait for timers; `passed` is told how much time they would have taken."""

    def __init__(self, passed: Callable[[float], None], still: Callable[[], bool]):
        super().__init__()
        self._passed, self._still = passed, still

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(REAL if self._still() else 0)
        if not found:
            self._passed(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time` begins at 0. What runs "in a thread" runs at once, and takes the seconds that it charges."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real = 0
        self._charged = 0.0
        super().__init__(_Jump(self._pass, lambda: self._real > 0))

    def time(self) -> float:
        return self.now

    def charge(self, seconds: float) -> None:
        """What is computed just now takes so long: for who called `run_in_executor`."""
        self._charged += seconds

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Something real goes on inside: it takes no virtual time."""
        self._real += 1
        try:
            yield
        finally:
            self._real -= 1

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()
        try:
            answer = func(*args)
        except Exception as error:
            future.set_exception(error)
            return future
        seconds, self._charged = self._charged, 0.0
        self.call_later(seconds, settle, future, answer)
        return future

    def _pass(self, seconds: float) -> None:
        self.now += seconds


def settle(future: asyncio.Future[Any], answer: Any) -> None:
    """The future's answer, where nobody has given or cancelled it."""
    if not future.done():
        future.set_result(answer)


def virtual() -> VirtualLoop:
    """The loop that is running. RuntimeError outside of a simulation."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("this part of a simulation runs outside of one: temper.simulate.simulate(run, world)")
    return loop
