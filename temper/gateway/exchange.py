"""Nodes without shared weights exchange text on the network: a best-effort all-gather, round by round."""

from __future__ import annotations

import asyncio
import hmac
import json
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
from temper.gateway.client import Refused, Unreachable, ask
from temper.gateway.errors import ApiError
from temper.gateway.http import Request, Response, Server
from temper.gateway.payloads import Answers

NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
KEPT = 4  # rounds that a slower node may still ask for
PAUSE = 0.05  # seconds between two looks whether a peer has reached the round


@dataclass
class Exchange:
    """A node of a swarm. It publishes what it has for a round, and takes what others have within `timeout` seconds.

    meet     a folder that all nodes see: each leaves its address and its token there, readable for its user only
    node     its name; nodes: how many there are, for the first round's waiting
    most     answers to a task; longest: characters of a text; groups: tasks in a payload. What exceeds them is dropped
    dropped  payloads or groups that were malformed; silent: nodes that were waited for in vain, both since the start
    """

    meet: Path
    node: str = "a"
    nodes: int = 1
    timeout: float = 600.0
    most: int = 64
    longest: int = 100_000
    groups: int = 256
    dropped: int = field(default=0, init=False)
    silent: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.node):
            raise UserError(f"a node's name is made of letters, digits, - and _, got {self.node!r}")
        self.meet = Path(self.meet)
        self._published: dict[int, bytes] = {}
        self._taken: dict[int, set[str]] = {}
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
        self._published[step] = json.dumps({"groups": [a.to_json() for a in mine]}).encode()
        for old in [s for s in self._published if s <= step - KEPT]:
            del self._published[old]
        ends = time.monotonic() + self.timeout
        while len(peers := self._peers()) < self.nodes - 1 and step == 0 and time.monotonic() < ends:
            await asyncio.sleep(PAUSE)
        said = await asyncio.gather(*(self._take(address, step, ends) for address in peers.values()))
        self.silent += sum(s is None for s in said)
        return {name: self._read(s) for name, s in zip(peers, said) if s is not None}

    def _peers(self) -> dict[str, Mapping[str, str]]:
        files = sorted(f for f in self.meet.glob("*.json") if f.stem != self.node)
        return {f.stem: json.loads(f.read_text()) for f in files}

    async def _take(self, address: Mapping[str, str], step: int, ends: float) -> Any:
        """A peer's payload; None when it is gone, past that round, or too late."""
        url = f"{address['url']}/rounds/{step}/{self.node}"
        while (left := ends - time.monotonic()) > 0:
            try:
                said = await ask(url, token=address["token"], deadline=left)
            except (Unreachable, Refused):
                return None
            if said is not None:
                return said
            await asyncio.sleep(PAUSE)
        return None

    def _read(self, payload: Any) -> list[Answers]:
        """What of a payload has the right shape."""
        rows = payload.get("groups") if isinstance(payload, dict) else None
        if not isinstance(rows, list):
            self.dropped += 1
            return []
        good = []
        for row in rows[: self.groups]:
            try:
                good.append(Answers.from_json(row, self.most, self.longest))
            except ValueError:
                self.dropped += 1
        return good

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
        if self._published and step < max(self._published):
            raise ApiError(410, "that round is over here")
        return Response(b"")

    def close(self, linger: float = 0.0) -> None:
        """Stop listening, `linger` seconds later at most: as soon as everybody has taken the last round."""
        if self._loop is None:
            return
        ends, last = time.monotonic() + linger, max(self._published, default=0)
        while time.monotonic() < ends and not set(self._peers()) <= self._taken.get(last, set()):
            time.sleep(PAUSE)
        (self.meet / f"{self.node}.json").unlink(missing_ok=True)
        asyncio.run_coroutine_threadsafe(self._server.closed(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop = None
