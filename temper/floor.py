"""Who is at work, by kind; and silence, for those who need it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temper.waits import Waits


class Floor:
    """`at` is entered by those who work. `quiet` waits until nobody of some kinds does, and holds who would begin."""

    def __init__(self, waits: Waits | None = None) -> None:
        self._waits = waits or Waits()
        self._busy: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._watchers: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def at(self, kind: str) -> AsyncIterator[None]:
        while self._closed[kind]:
            await self._change()
        self._busy[kind] += 1
        try:
            yield
        finally:
            self._busy[kind] -= 1
            self._tell()

    @asynccontextmanager
    async def quiet(self, *kinds: str) -> AsyncIterator[None]:
        self._closed.update(kinds)
        try:
            with self._waits.on(
                f"an evaluation or a checkpoint waits until {' and '.join(kinds)} in flight have ended"
            ):
                while any(self._busy[k] for k in kinds):
                    await self._change()
            yield
        finally:
            self._closed.subtract(kinds)
            self._tell()

    async def _change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._watchers.append(future)
        await future

    def _tell(self) -> None:
        watchers, self._watchers = self._watchers, []
        for w in watchers:
            if not w.done():
                w.set_result(None)
