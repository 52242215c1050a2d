"""What runs in the actors. Each body opens a policy as one process would, and adds only how it is talked to.

`about` comes first: it opens what was given, so that what goes wrong there is an answer like others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import torch

from temper.backends.base import ContextFull, SamplingParams, fingerprint
from temper.backends.ray_judge import where
from temper.backends.ray_pack import Frozen, freeze, thaw, unpack
from temper.episode import Completion
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task


def opened(blob: bytes, threads: int) -> tuple[Any, list[Any]]:
    """The policy of `pack((policy, modules, seed))`, open in this process, and its terms' modules."""
    torch.set_num_threads(threads)
    policy, modules, seed = unpack(blob)
    torch.manual_seed(seed)
    policy.open(modules)
    return policy, modules


class SamplerBody:
    """A policy's sampler. Weights arrive under operation ids: what belongs to an older one is not taken any more."""

    def __init__(self, blob: bytes, threads: int):
        self.given = blob, threads
        self.sampler: Any = None
        self.open = 0  # samples
        self.op = 0
        self.served = (0, "")

    async def about(self) -> dict[str, Any]:
        self.policy, _ = opened(*self.given)
        sampler = self.sampler = self.policy.sampler
        return where() | {"context": sampler.context, "end": tuple(sampler.end), "vocabulary": sampler.vocabulary}

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        with self._counted():
            return await self.sampler.sample(ids, params)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    @ray.method(num_returns="streaming")
    async def stream(self, ids: tuple[int, ...], params: SamplingParams) -> AsyncIterator[int | Completion]:
        """Tokens as they are drawn, then the completion."""
        drawn: asyncio.Queue[int | None] = asyncio.Queue()
        going = asyncio.ensure_future(self.sampler.sample(ids, params, heard=drawn.put_nowait))
        going.add_done_callback(lambda _: drawn.put_nowait(None))
        try:
            with self._counted():
                while (token := await drawn.get()) is not None:
                    yield token
                yield await going
        finally:
            going.cancel()

    async def abort(self) -> None:
        await self.sampler.abort()

    async def forget(self) -> None:
        if hasattr(self.sampler, "forget"):
            self.sampler.forget()

    async def load(self, op: int, version: int, weights: Frozen) -> tuple[int, str]:
        """(version, fingerprint) of what is served afterwards; a push older than the last one changes nothing."""
        if op > self.op:
            self.op = op
            arrived = thaw(weights)
            self.policy.learner.load(arrived)
            ack = await self.sampler.load(arrived, version)
            self.served = (ack.version, ack.fingerprint)
        return self.served

    @ray.method(concurrency_group="beat")
    async def beat(self) -> tuple[int, bool]:
        """(what grows with the work that is done, whether there is some)."""
        return (int(self.sampler.tokens) if self.sampler is not None else 0), self.open > 0


class Kept:
    """What bodies have whose state is kept in snapshots. op: the last change that was made."""

    op = 0

    def sees(self, folder: str, seconds: float = 5.0) -> bool:
        """Whether a folder that the driver made is there for this machine too; a network file system may be late."""
        until = time.monotonic() + seconds
        while not Path(folder).is_dir():
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    @ray.method(concurrency_group="beat")
    def beat(self) -> int:
        return self.op


class LearnerBody(Kept):
    """A policy's learner. Changes are numbered: one that was made is not made again."""

    def __init__(self, blob: bytes, threads: int):
        self.given = blob, threads
        self.base: Any = None
        self.op = 0
        self.answer: Any = None

    def about(self) -> dict[str, Any]:
        from temper.ledger import Shape

        self.policy, self.modules = opened(*self.given)
        self.learner = self.policy.learner
        return where() | {"shape": Shape.of(self.learner.module), "flat": self.learner.flat}

    def apply(self, op: int, change: bytes) -> Any:
        """("update", batch, terms, optimizer), ("load", weights) or ("restore", folder)."""
        if op > self.op:
            kind, *args = unpack(change, self.modules)
            self.answer = getattr(self, f"_{kind}")(*args)
            self.op = op
        return self.answer

    def _update(self, batch: Any, terms: list[Any], optimizer: Any) -> Any:
        self.learner.spec = optimizer
        return self.learner.update(batch, terms), [p.state_dict() for p in memories(terms, optimizer)]

    def _load(self, weights: Frozen) -> None:
        self.learner.load(thaw(weights))

    def _restore(self, folder: str) -> None:
        self.learner.restore(Path(folder))

    def read(self, blob: bytes, base: bool) -> Any:
        batch, columns = unpack(blob, self.modules)
        return (self._base() if base else self.learner).read(batch, columns)

    def gradient_norms(self, blob: bytes) -> Any:
        return self.learner.gradient_norms(*unpack(blob, self.modules))

    def _base(self) -> Any:
        """The model that its adapters started from."""
        if self.base is None:
            from temper.backends.adapters import BaseLearner

            self.base = BaseLearner(self.learner)
        return self.base

    @ray.method(num_returns=2)
    def weights(self) -> tuple[Frozen, str]:
        found = self.learner.weights()
        return freeze(found), fingerprint(found.items())

    def save(self, folder: str) -> None:
        self.learner.save(Path(folder))

    def renew(self, op: int, folder: str) -> None:
        """Be what was saved in `folder` after change `op`."""
        self.learner.restore(Path(folder))
        self.op = op


class RankBody(Kept):
    """One rank of a sharded learner (`temper.backends.fsdp.Rank`)."""

    def __init__(self, blob: bytes, threads: int):
        torch.set_num_threads(threads)
        self.op = 0
        self.rank: Any = None
        self.answer: Any = None

    def about(self) -> dict[str, Any]:
        return where()

    def host(self) -> str:
        """HOST:PORT at which this rank will be found by the others: on its node's own address, and held from now on."""
        node: Any = ray.util
        self.door = listening(node.get_node_ip_address())
        return "{}:{}".format(*self.door.getsockname()[:2])

    def join(self, rank: int, world: int, address: str, timeout: float, device: str) -> None:
        """Make the process group. address: what the first rank said in `host`."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        from temper.backends.fsdp_group import join
        from temper.backends.fsdp_processes import LOOPBACK

        host, _, port = address.rpartition(":")
        if host in LOCAL:
            os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = LOOPBACK
        store = TCPStore(
            host, int(port), world, rank == 0, timedelta(seconds=timeout), wait_for_workers=False,
            master_listen_fd=self.door.detach() if rank == 0 else None,
        )  # fmt: skip
        join(rank, world, timeout=timeout, device=device, local_rank=0, store=store)

    def open(self, blob: bytes) -> dict[str, Any]:
        """`Setup.open` of `pack(setup)`; about the model."""
        from temper.ledger import Shape

        self.rank = unpack(blob).open()
        return {"shape": Shape.of(self.rank.module), "flat": self.rank.flat}

    def apply(self, op: int, change: bytes) -> Any:
        if op > self.op:
            self.answer = self.call(change)
            self.op = op
        return self.answer

    def call(self, blob: bytes) -> Any:
        """`pack((method, args))`."""
        method, args = unpack(blob, list(self.rank.own))
        return getattr(self.rank, method)(*args)

    @ray.method(num_returns=2)
    def weights(self, mine: bool) -> tuple[Frozen, str]:
        """Whole, where they are wanted; every rank must be asked."""
        found = dict(self.rank.gathered())
        return (freeze(found), fingerprint(found.items())) if mine else ({}, "")

    def save(self, folder: str) -> None:
        self.rank.save(Path(folder))

    def renew(self, op: int, folder: str) -> None:
        self.rank.restore(Path(folder))
        self.op = op


class BusBody(Kept):
    """The data bus."""

    def __init__(self, blob: bytes, threads: int):
        from temper.bus import Bus

        self.bus = Bus(*unpack(blob))
        self.op = 0
        self.answer: Any = None

    def about(self) -> dict[str, Any]:
        return where()

    def apply(self, op: int, change: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
        if op > self.op:
            name, args, options = change
            self.answer = getattr(self.bus, name)(*args, **options)
            self.op = op
        return self.answer

    def look(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return getattr(self.bus, name)(*args, **options)

    def save(self, folder: str) -> None:
        (Path(folder) / "bus").write_bytes(pickle.dumps(self.bus.state_dict()))

    def renew(self, op: int, folder: str) -> None:
        self.bus.load_state_dict(pickle.loads((Path(folder) / "bus").read_bytes()))  # this run's own snapshot
        self.op = op


LOCAL = ("127.0.0.1", "::1")


def listening(host: str) -> socket.socket:
    """A socket on a free port of this address only."""
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.bind((host, 0))
    door.listen()
    return door


def memories(terms: Sequence[Any], optimizer: Any) -> list[Any]:
    """Parts of the terms that have memory, in a fixed order."""
    parts = [p for t in terms for p in (t.coef, t.loss, t.per)]
    return [
        p for p in (*parts, optimizer.lr) if hasattr(p, "state_dict") and not isinstance(p, (torch.nn.Module, type))
    ]


@dataclass(frozen=True)
class Chair:
    """What an environment elsewhere knows of a seat."""

    name: str
    model: str
    params: SamplingParams
    version: int
    context: int
    end: tuple[int, ...]


class FarSeat(Seat):
    """A seat whose policy lives elsewhere: what it is asked is handed on, and answered from there."""

    def __init__(self, role: str, chair: Chair, tokenizer: Any, ask: Any):
        sampler = SimpleNamespace(context=chair.context, end=chair.end)
        policy: Any = SimpleNamespace(
            name=chair.name, model=chair.model, version=chair.version, tokenizer=tokenizer, sampler=sampler
        )
        super().__init__(role, policy, chair.params, 0, ())
        self._ask = ask

    async def sample(self, ids: Sequence[int], **overrides: Any) -> Completion:
        said: Completion = await self._ask(self.role, tuple(ids), overrides)
        return said


class EnvironmentBody:
    """Plays attempts. What seats are asked goes back to the driver as messages of a stream; `answer` brings replies.

    ("ask", number, role, ids, overrides)* then one of ("episode", e), ("drop", why), ("full", why), ("user", why)
    """

    def __init__(self, blob: bytes, threads: int):
        self.given = blob, threads
        self.tokenizers: dict[str, Any] = {}
        self.asked: dict[tuple[str, int], asyncio.Future[Completion]] = {}
        self.messages = self.plays = 0

    async def about(self) -> dict[str, Any]:
        torch.set_num_threads(self.given[1])
        self.env = unpack(self.given[0])
        return where()

    @ray.method(num_returns="streaming")
    async def play(self, key: str, task: Task, chairs: dict[str, Chair]) -> AsyncIterator[tuple[Any, ...]]:
        out: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        count = 0

        async def ask(role: str, ids: tuple[int, ...], overrides: dict[str, Any]) -> Completion:
            nonlocal count
            number, count = count, count + 1
            future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
            self.asked[key, number] = future
            out.put_nowait(("ask", number, role, ids, overrides))
            try:
                return await future
            finally:
                del self.asked[key, number]

        seats = {role: FarSeat(role, c, self._tokenizer(c.model), ask) for role, c in chairs.items()}
        playing = asyncio.ensure_future(self._outcome(task, seats))
        playing.add_done_callback(lambda p: out.put_nowait(("end",)))
        self.plays += 1
        try:
            while (message := await out.get())[0] != "end":
                self.messages += 1
                yield message
            yield await playing
        finally:
            self.plays -= 1
            playing.cancel()

    async def _outcome(self, task: Task, seats: dict[str, FarSeat]) -> tuple[Any, ...]:
        try:
            return "episode", await self.env.play(task, seats)
        except Drop as drop:
            return "drop", drop.reason
        except ContextFull as full:
            return "full", str(full)
        except UserError as error:
            return "user", str(error)

    async def answer(self, key: str, number: int, said: Completion | Exception) -> None:
        future = self.asked.get((key, number))
        if future is None or future.done():
            return
        if isinstance(said, Exception):
            future.set_exception(said)
        else:
            future.set_result(said)

    def _tokenizer(self, model: str) -> Any:
        if model not in self.tokenizers:
            from temper.models.load import load_tokenizer

            self.tokenizers[model] = load_tokenizer(model)
        return self.tokenizers[model]

    @ray.method(concurrency_group="beat")
    async def beat(self) -> tuple[int, bool]:
        """At work are plays that do not wait for a sampler's answer."""
        return self.messages, self.plays > len({key for key, _ in list(self.asked)})
