"""The gateway on loopback that somebody else's environment calls; each attempt has a key of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from temper.envs.agent import ends_of
from temper.episode import Recorder
from temper.gateway.recording import Recording
from temper.gateway.render import Renderer
from temper.gateway.server import Gateway
from temper.policy import Seat


class Door:
    """A server in the run's event loop, started by whoever comes first.

    places  attempts at once
    """

    def __init__(self, places: int):
        self.places = places
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def opened(self, seat: Seat, record: Recorder) -> AsyncIterator[tuple[Recording, str, str]]:
        """(session, base URL, key) of one attempt; afterwards the key opens nothing."""
        if self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._gateway, self._free = Gateway(), asyncio.Semaphore(self.places)
            self._started = self._loop.create_task(self._gateway.start())
            self._renderers: dict[int, Renderer] = {}
        url = await asyncio.shield(self._started)
        session = Recording(seat, record, self._renderer(seat), ends_of(seat))
        async with self._free:
            key = self._gateway.admit(session)
            try:
                yield session, url, key
            finally:
                self._gateway.revoke(key)

    async def aclose(self) -> None:
        loop, self._loop = self._loop, None
        if loop is asyncio.get_running_loop():
            await self._gateway.server.closed()

    def _renderer(self, seat: Seat) -> Renderer:
        """The tokenizer's; made once."""
        made = self._renderers.get(id(seat.tokenizer))
        if made is None:
            made = Renderer(seat.tokenizer, getattr(seat.policy.sampler, "context", 1 << 20))
            self._renderers[id(seat.tokenizer)] = made
        return made
