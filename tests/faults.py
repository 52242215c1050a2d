"""Faults of a network, for tests: at the seam of calls to actors, and between the two ends of a TCP connection.

Network(partition=True).on(member.line)          a call's way there and back
async with Proxy(port) as proxy: …               clients connect to proxy.port; proxy.network is broken at will
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from typing import Any


@dataclass
class Network:
    """What is wrong; may be changed at any time.

    delay      seconds before a call arrives
    slow       seconds before an answer arrives; between TCP ends: before each piece of it
    drop       so many calls never arrive
    half_open  calls arrive, answers do not
    partition  neither does
    methods    whose calls are meant (none: all)
    """

    delay: float = 0.0
    slow: float = 0.0
    drop: int = 0
    half_open: bool = False
    partition: bool = False
    methods: tuple[str, ...] = ()

    def on(self, line: Any) -> Network:
        """Between the callers of `line.ask` and what they ask."""
        real = line.ask

        def ask(method: str, *args: Any) -> Any:
            meant = not self.methods or method in self.methods
            return _Call(self, lambda: real(method, *args)) if meant else real(method, *args)

        line.ask = ask
        return self

    async def there(self) -> None:
        await asyncio.sleep(self.delay)
        if self.drop:
            self.drop -= 1
            await forever()
        if self.partition:
            await forever()

    async def back(self) -> None:
        await asyncio.sleep(self.slow)
        if self.half_open or self.partition:
            await forever()


@dataclass
class _Call:
    network: Network
    make: Callable[[], Any]

    async def _answer(self) -> Any:
        await self.network.there()
        answer = await self.make()
        await self.network.back()
        return answer

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._answer().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self.network.there()
        async for item in self.make():
            await self.network.back()
            yield item


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


class Proxy:
    """A TCP proxy on loopback to `port`, through `network`."""

    def __init__(self, port: int, network: Network | None = None):
        self.target, self.network = port, network or Network()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        for way in (self._pass(reader, back, "there"), self._pass(there, writer, "back")):
            task = asyncio.ensure_future(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 12):
                await getattr(self.network, way)()
                sink.write(data)
                await sink.drain()
        sink.close()
