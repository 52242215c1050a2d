"""Who waits for whom in a run, and whether anything moves: a wait without end says so, and may be ended."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

from temper.errors import UserError

BEAT = 1.0  # seconds between two looks, at most
SHOWN = 4  # waits that a line names


class Waits:
    """`on` is entered by who waits.

    While this is `watched`, seconds are counted in beats: a driver that was busy itself misses nothing.
    """

    def __init__(self) -> None:
        self.going: dict[object, tuple[str, float]] = {}  # what is waited for, and since when
        self.limits: dict[asyncio.Timeout, float] = {}
        self.seconds = 0.0
        self._moves = 0
        self._ended = ""

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        key = object()
        self.going[key] = what, self.seconds
        self._moves += 1
        try:
            yield
        finally:
            del self.going[key]
            self._moves += 1

    def limit(self, timeout: asyncio.Timeout, seconds: float | None) -> None:
        """Let `timeout` expire so many seconds from now; None: not any more."""
        self.limits.pop(timeout, None)
        if seconds is not None:
            self.limits[timeout] = self.seconds + seconds

    @contextlib.asynccontextmanager
    async def watched(self, note: float, end: float, finest: float = 0.0) -> AsyncIterator[None]:
        """A line on stderr once nothing has moved for `note` seconds, the next one after twice as long; UserError after
        `end` seconds. 0: never. finest: the shortest limit that will be asked for."""
        times = [t for t in (note, end, finest) if t]
        if not times:
            yield
            return
        whole = asyncio.timeout(None)
        try:
            async with whole:
                watching = asyncio.ensure_future(self._watch(whole, note, end, min(BEAT, *(t / 10 for t in times))))
                try:
                    yield
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        except TimeoutError:
            if self._ended and whole.expired():
                raise UserError(self._ended) from None
            raise

    async def _watch(self, whole: asyncio.Timeout, note: float, end: float, beat: float) -> None:
        moves, still, loop = -1, 0.0, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(beat)
            self.seconds += beat
            for timeout in [t for t, due in self.limits.items() if due <= self.seconds]:
                del self.limits[timeout]
                if not timeout.expired():
                    timeout.reschedule(loop.time())
            still = still + beat if moves == self._moves else 0.0
            moves = self._moves
            if end and still >= end:
                self._ended = f"nothing has begun or ended for {end:g} s: {self.told()}"
                whole.reschedule(loop.time())
                return
            if note and still >= note:
                print(f"nothing has begun or ended for {note:g} s: {self.told()}", file=sys.stderr, flush=True)
                note *= 2

    def told(self) -> str:
        """What is waited for, the longest wait first."""
        same: dict[str, list[float]] = {}
        for what, since in self.going.values():
            same.setdefault(what, []).append(self.seconds - since)
        waits = [f"{what} ({f'{len(t)} times, ' * (len(t) > 1)}{max(t):.0f} s)" for what, t in same.items()]
        more = f"; and {len(waits) - SHOWN} more" if len(waits) > SHOWN else ""
        return "; ".join(waits[:SHOWN]) + more if waits else "nobody waits for anything that is known"
