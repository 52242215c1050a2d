"""vLLM servers as a sampler's client sees them: started here or elsewhere, healthy or not, with which weights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import temper
from temper.backends.vllm import VLLM, installed
from temper.backends.vllm_server import TOKEN
from temper.errors import UserError
from temper.gateway.client import Refused, Unreachable, ask

ERROR = re.compile(r"(?:^|[\])] )[\w.]*(?:Error|Exception): ")
GRACE = 5.0  # seconds for a server to end by itself


@dataclass(frozen=True)
class VLLMServer:
    """A policy is served by vLLM servers: `Policy(engine=VLLMServer(…))`; "vllm-server" stands for the defaults.

    servers    how many are started on this machine, where no urls are given
    urls       of servers that run already (`python -m temper.backends.vllm_server`)
    token      of those; empty: what TEMPER_VLLM_TOKEN says
    shared     the folder that they and this process see (their --shared); weights go through it
    startup    seconds for a server to begin to answer, and for one elsewhere to come back with the right weights
    deadline   seconds for one answer, and for new weights to be served
    heartbeat  seconds between two looks at a server's health; three that fail are its end
    retries    of a request, at another server where there is one
    restarts   of each server that was started here
    engine     cache, blocks and further settings of a server that is started here
    """

    servers: int = 1
    urls: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    shared: Path | None = None
    startup: float = 300.0
    deadline: float = 600.0
    heartbeat: float = 5.0
    retries: int = 3
    restarts: int = 3
    engine: VLLM = field(default_factory=VLLM)

    def __post_init__(self) -> None:
        if self.servers < 1:
            raise UserError(f"servers must be at least 1, got {self.servers}")
        if self.urls and self.shared is None:
            raise UserError("urls of vLLM servers need `shared`: the folder that was given to them as --shared")
        if self.urls and not self.secret:
            raise UserError(f"urls of vLLM servers need their token: set {TOKEN}")

    def check(self) -> None:
        """UserError where servers are to be started and vLLM is not installed; others' servers need none here."""
        if not self.urls:
            installed()

    def sampler(self, module: Any, tokenizer: Any, **fields: Any) -> Any:
        from temper.backends.vllm_client import ServedSampler

        return ServedSampler(module, tokenizer, self, **fields)

    @property
    def secret(self) -> str:
        return self.token or os.environ.get(TOKEN, "")


@dataclass(eq=False)
class Server:
    """One of them.

    version  of the weights that it is known to serve; None: not yet any
    calls    what is being asked of it
    why      what is wrong with it, while it is not alive; lost: why it will not come back
    """

    url: str
    token: str
    settings: VLLMServer
    home: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    alive: bool = False
    version: int | None = None
    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    starts: int = 0
    why: str = ""
    lost: str = ""

    async def ask(self, path: str, body: Any = None, *, deadline: float | None = None, **rest: Any) -> Any:
        """One request. Unreachable also for an error of the server's own (500 and above); UserError for its token."""
        try:
            return await ask(
                self.url + path, body, token=self.token, deadline=deadline or self.settings.deadline, **rest
            )
        except Refused as error:
            if error.status in (401, 403):
                raise UserError(f"vLLM server {self.url} does not accept the token: {error.words}")
            if error.status >= 500:
                raise Unreachable(str(error))
            raise

    async def healthy(self) -> bool:
        try:
            await self.ask("/health", deadline=max(2.0, self.settings.heartbeat))
        except (Unreachable, Refused):
            return False
        return True

    async def start(self, given: Mapping[str, Any], model: Path, shared: Path) -> None:
        """Start it on this machine and wait until it answers; UserError with its own words when it does not."""
        self.starts += 1
        assert self.home is not None
        ready, log = self.home / "ready.json", self.home / "log.txt"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "temper.backends.vllm_server", "--model", str(model), "--shared", str(shared)]
        command += ["--port", "0", "--ready", str(ready), "--parent"]
        command += [word for k, v in given.items() for word in ("--set", f"{k}={json.dumps(v)}")]
        path = os.pathsep.join([str(Path(temper.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("wb") as out:
            process = self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, TOKEN: self.token, "PYTHONPATH": path},
            )  # fmt: skip
        try:
            async with asyncio.timeout(self.settings.startup):
                while not (ready.exists() and await self._answers(ready)):
                    if process.poll() is not None:
                        raise UserError(f"a vLLM server ended before it could serve: {_last_words(log)}")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.kill()
            raise UserError(f"waited {self.settings.startup:g} s for a vLLM server to start: {_last_words(log)}")

    async def _answers(self, ready: Path) -> bool:
        self.url = f"http://127.0.0.1:{json.loads(ready.read_text())['port']}"
        return await self.healthy()

    def kill(self, gently: bool = False) -> None:
        """End the process that was started here, and its children."""
        process, self.process = self.process, None
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL) if gently else (signal.SIGKILL,):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        assert process.stdin is not None
        process.stdin.close()


def of(settings: VLLMServer, home: Path) -> list[Server]:
    """The servers of these settings, not yet started; those of this machine have a folder each in `home`."""
    if settings.urls:
        return [Server(url.rstrip("/"), settings.secret, settings) for url in settings.urls]
    made = [Server("", secrets.token_urlsafe(24), settings, home / f"server-{n}") for n in range(settings.servers)]
    for server in made:
        assert server.home is not None
        server.home.mkdir()
    return made


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if ERROR.search(line) and "See root cause" not in line]
    return (told or lines or ["it said nothing"])[-1][-500:]
