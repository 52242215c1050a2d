"""Nodes without shared weights exchange text on the network: a best-effort all-gather, round by round."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.gateway.client import LIMIT, Refused, Unreachable, ask
from temper.gateway.errors import ApiError
from temper.gateway.http import Request, Response, Server
from temper.gateway.payloads import Answers

LOG = logging.getLogger("temper.swarm")
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
KEPT = 4  # rounds that a slower node may still ask for
SUSPECTED = 0.05  # share of the timeout that a node which was silent is waited for, until it is heard again
PAUSE = 0.05  # seconds between two looks whether a peer has reached the round


@dataclass
class Exchange:
    """A node of a swarm. It publishes what it has for a round, and takes what others have within `timeout` seconds.

    meet     a folder that all nodes see: each leaves its address and its token there, readable for its user only
    node     its name; nodes: how many there are, for the first round's waiting
    most     answers to a task; longest: characters of a text; groups: tasks in a payload. What exceeds them, or in all
             `largest` bytes, is not sent, and dropped where it arrives
    dropped  payloads or groups that were malformed; silent: nodes that were waited for in vain; unsent: own groups that
             others would drop: all since the start. `metrics` has those of the last round
    A failure of somebody is one warning in the log, the first time.
    """

    meet: Path
    node: str = "a"
    nodes: int = 1
    timeout: float = 600.0
    most: int = 64
    longest: int = 100_000
    groups: int = 256
    largest: int = LIMIT
    dropped: int = field(default=0, init=False)
    silent: int = field(default=0, init=False)
    unsent: int = field(default=0, init=False)
    metrics: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.node):
            raise UserError(f"a node's name is made of letters, digits, - and _, got {self.node!r}")
        self.meet = Path(self.meet)
        self._published: dict[int, bytes] = {}
        self._taken: dict[int, set[str]] = {}
        self._suspected: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Listen on this machine, in a thread of its own, and leave the address in the folder."""
        if self._loop is not None:
            return
        self._loop, self._token = asyncio.new_event_loop(), secrets.token_urlsafe(24)
        threading.Thread(target=self._loop.run_forever, name=f"node-{self.node}", daemon=True).start()
        self._server = Server(self._handle)
        port = asyncio.run_coroutine_threadsafe(self._server.start("127.0.0.1", 0), self._loop).result(10)
        self.meet.mkdir(parents=True, exist_ok=True)
        part = self.meet / f"{self.node}.part"
        with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
            json.dump({"url": f"http://127.0.0.1:{port}", "token": self._token}, out)
        part.rename(self.meet / f"{self.node}.json")

    async def gather(self, step: int, mine: Sequence[Answers]) -> dict[str, list[Answers]]:
        """Publish `mine` for round `step`; what every other node has for it, by name. Nobody's failure is an error."""
        self.start()
        before = self._counts()
        self._published[step] = self._payload(mine)
        for old in [s for s in self._published if s <= step - KEPT]:
            del self._published[old]
            self._taken.pop(old, None)
        ends = time.monotonic() + self.timeout
        while len(peers := self._peers()) < self.nodes - 1 and step == 0 and time.monotonic() < ends:
            await asyncio.sleep(PAUSE)
        if step == 0 and len(peers) < self.nodes - 1:
            LOG.warning("only %d of %d nodes met in %s: going on", len(peers) + 1, self.nodes, self.meet)
        said = await asyncio.gather(*(self._heard(name, address, step, ends) for name, address in peers.items()))
        heard = {name: self._read(name, s) for name, s in zip(peers, said) if s is not None}
        self.metrics = {f"swarm/{what}": float(now - before[what]) for what, now in self._counts().items()}
        return heard

    def _counts(self) -> dict[str, int]:
        return {"silent": self.silent, "dropped": self.dropped, "unsent": self.unsent}

    def _payload(self, mine: Sequence[Answers]) -> bytes:
        """Those of `mine` that others will take."""
        rows, size = list[str](), len('{"groups": []}')
        for a in mine:
            try:
                row = json.dumps(a.to_json())
                Answers.from_json(json.loads(row), self.most, self.longest)
                if len(rows) == self.groups or size + len(row) + 2 > self.largest:
                    raise ValueError(f"a round's payload has at most {self.groups} groups and {self.largest} bytes")
            except (TypeError, ValueError) as error:
                self.unsent += 1
                self._tell(self.node, "unsent", f"an own group (task {a.task.id}) is not sent: {error}")
                continue
            rows.append(row)
            size += len(row) + 2
        return f'{{"groups": [{", ".join(rows)}]}}'.encode()

    def _peers(self) -> dict[str, Mapping[str, str]]:
        """The addresses of the others. A file that has just gone is nobody's, nor is one that is no address."""
        found = dict[str, Mapping[str, str]]()
        for file in sorted(f for f in self.meet.glob("*.json") if f.stem != self.node and NAME.fullmatch(f.stem)):
            try:
                told = json.loads(file.read_text())
                found[file.stem] = {k: told[k] + "" for k in ("url", "token")}
            except FileNotFoundError:  # it has ended since they were listed
                continue
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self._tell(file.stem, "address", f"{file} is no address of a node: {type(error).__name__}")
        return found

    async def _heard(self, name: str, address: Mapping[str, str], step: int, ends: float) -> Any:
        """A peer's payload; None when it is gone, past that round, or too late: then it is suspected."""
        if name in self._suspected:
            ends = min(ends, time.monotonic() + SUSPECTED * self.timeout)
        said, why = await self._take(address, step, ends)
        if said is not None:
            self._suspected.discard(name)
            self._told.discard((name, "silent"))
            return said
        self.silent += 1
        self._suspected.add(name)
        wait = f"waited for {SUSPECTED * self.timeout:g} s a round until it is heard again"
        self._tell(name, "silent", f"node {name} was silent in round {step} ({why}): {wait}")
        return None

    async def _take(self, address: Mapping[str, str], step: int, ends: float) -> tuple[Any, str]:
        """A peer's payload, or None and the reason."""
        url = f"{address['url']}/rounds/{step}/{self.node}"
        while (left := ends - time.monotonic()) > 0:
            try:
                said = await ask(url, token=address["token"], deadline=left, limit=self.largest)
            except (Unreachable, Refused) as error:
                return None, str(error)
            if said is not None:
                return said, ""
            await asyncio.sleep(PAUSE)
        return None, "it did not get there in time"

    def _read(self, name: str, payload: Any) -> list[Answers]:
        """What of a payload has the right shape."""
        rows = payload.get("groups") if isinstance(payload, dict) else None
        if not isinstance(rows, list):
            self._drop(name, 1, "a payload is no list of groups")
            return []
        if len(rows) > self.groups:
            self._drop(name, len(rows) - self.groups, f"more than {self.groups} groups")
        good = []
        for row in rows[: self.groups]:
            try:
                good.append(Answers.from_json(row, self.most, self.longest))
            except ValueError as error:
                self._drop(name, 1, str(error))
        return good

    def _drop(self, name: str, count: int, why: str) -> None:
        self.dropped += count
        self._tell(name, "dropped", f"what node {name} sends is dropped in part: {why}")

    def _tell(self, name: str, what: str, line: str) -> None:
        """A warning, once for each node and kind."""
        if (name, what) not in self._told:
            self._told.add((name, what))
            LOG.warning("%s", " ".join(line.split()))

    async def _handle(self, request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise ApiError(401, "this node wants its token")
        match = re.fullmatch(r"/rounds/([0-9]{1,9})/([A-Za-z0-9_-]{1,32})", request.path)
        if match is None or request.method != "GET":
            raise ApiError(404, "a node answers GET /rounds/NUMBER/NAME")
        step = int(match[1])
        if step in self._published:
            self._taken.setdefault(step, set()).add(match[2])
            return Response(self._published[step])
        if step < max([*self._published], default=0):
            raise ApiError(410, "that round is over here")
        return Response(b"")

    def close(self, linger: float = 0.0) -> None:
        """Stop listening, `linger` seconds later at most: as soon as whoever was heard has taken the last round."""
        if self._loop is None:
            return
        ends, last = time.monotonic() + linger, max(self._published, default=0)
        while time.monotonic() < ends and {*self._peers()} - self._suspected - self._taken.get(last, set()):
            time.sleep(PAUSE)
        (self.meet / f"{self.node}.json").unlink(missing_ok=True)
        asyncio.run_coroutine_threadsafe(self._server.closed(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop = None
