"""Where a run's wall time goes: every moment is counted once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = ("evaluation", "update", "sync", "tools", "reward", "stages", "rollout")  # of several that go on together
NAMES = {"rollout": "sampling"}  # what is left of a rollout


class Clock:
    """Seconds by stage; of several at the same time the first in FIRST has the moment, and what is left is other."""

    def __init__(self) -> None:
        self._going: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()
        self._lock = threading.RLock()  # updates run in a thread while others play

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """The block belongs to `stage`; blocks of concurrent tasks may overlap."""
        self._step(stage, 1)
        try:
            yield
        finally:
            self._step(stage, -1)

    def take(self) -> dict[str, float]:
        """Seconds since the last call; together they are the wall time that has passed."""
        with self._lock:
            self._count()
            taken, self._seconds = self._seconds, {}
        return taken

    def _step(self, stage: str, change: int) -> None:
        with self._lock:
            self._count()
            self._going[stage] += change

    def _count(self) -> None:
        now = time.perf_counter()
        stage = next((s for s in (*FIRST, *self._going) if self._going[s] > 0), "other")
        name = NAMES.get(stage, stage)
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now
