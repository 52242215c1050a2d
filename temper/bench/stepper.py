"""Two training loops in one process, one step of each in turn, so that both see the same machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

Loop = Callable[[Callable[[], None]], None]  # trains for ever; calls its argument at the end of every step
DEADLINE = 600.0  # seconds that one step may take


class Over(BaseException):
    """Raised inside a loop that is not needed any more."""


@dataclass
class Step:
    """cpu: seconds of all threads of the process; wall: seconds."""

    cpu: float
    wall: float


class Stepper:
    """Runs `loop` in a thread, a step at a time."""

    def __init__(self, loop: Loop):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._loop, self._over = loop, False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> Step:
        """Go on to the end of the next step. Raises what the loop raises; RuntimeError when it ends or hangs."""
        cpu, wall = time.process_time(), time.perf_counter()
        self._go.release()
        if not self._done.acquire(timeout=DEADLINE):
            raise RuntimeError(f"a step did not end within {DEADLINE:g} s")
        if self._error is not None:
            raise self._error
        return Step(time.process_time() - cpu, time.perf_counter() - wall)

    def close(self) -> None:
        self._over = True
        self._go.release()
        self._thread.join(DEADLINE)

    def _run(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._go.acquire()
        try:
            self._loop(self._tick)
            self._error = RuntimeError("the loop ended by itself")
        except Over:
            pass
        except BaseException as error:
            self._error = error
        self._done.release()

    def _tick(self) -> None:
        self._done.release()
        self._go.acquire()
        if self._over:
            raise Over
