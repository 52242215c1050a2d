"""Faults of a network, for tests: at the seam of calls to actors, and between the two ends of a TCP connection.

Network(partition=True).on(member.line)          calls that are awaited: samplers, environments, reward actors
Network(partition=True).under(gang.lines[0])     calls that are waited for: learners, the bus
async with Proxy(port) as proxy: …               clients connect to proxy.port; proxy.network is broken at will
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
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

    def under(self, line: Any) -> Network:
        """Between `line.result` and what it waits for."""
        real, arrived, taken = line.ask, line.arrived, line.taken

        def ask(method: str, *args: Any) -> Any:
            if self.methods and method not in self.methods:
                return real(method, *args)
            if method == "weights":  # two answers: what is large stays where it is, its mark comes back
                large, mark = real(method, *args)
                return large, _Letter(self, lambda: mark)
            return _Letter(self, lambda: real(method, *args))

        def all_here(refs: list[Any], seconds: float) -> bool:
            until = time.monotonic() + seconds
            here = [r.here.wait(max(0.0, until - time.monotonic())) for r in refs if isinstance(r, _Letter)]
            rest = [r for r in refs if not isinstance(r, _Letter)]
            return all(here) and (not rest or arrived(rest, max(0.0, until - time.monotonic())))

        line.ask, line.arrived = ask, all_here
        line.taken = lambda refs: taken([r.answer if isinstance(r, _Letter) else r for r in refs])
        return self

    def lost(self) -> bool:
        """Whether the next call does not arrive."""
        self.drop, dropped = max(0, self.drop - 1), self.drop > 0
        return dropped or self.partition

    async def there(self) -> None:
        await asyncio.sleep(self.delay)
        if self.lost():
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


class _Letter:
    """A call whose answer somebody blocks for; it goes its way in a thread."""

    def __init__(self, network: Network, make: Callable[[], Any]):
        self.network, self.make = network, make
        self.here, self.answer = threading.Event(), None
        threading.Thread(target=self._go, daemon=True).start()

    def _go(self) -> None:
        import ray

        time.sleep(self.network.delay)
        if self.network.lost():
            return
        self.answer = self.make()
        with contextlib.suppress(Exception):  # the cluster ended meanwhile
            ray.wait([self.answer])
        time.sleep(self.network.slow)
        if not (self.network.half_open or self.network.partition):
            self.here.set()


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


class Stuck:
    """An environment that never gets on."""

    roles = ("solver",)

    async def play(self, task: Any, roles: Any) -> Any:
        await forever()
