"""The routes: who may ask, what is asked, and the answer."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from temper.backends.base import ContextFull
from temper.errors import UserError
from temper.gateway import asked as asked_
from temper.gateway.answers import Choice, Writer, choice
from temper.gateway.asked import Asked
from temper.gateway.errors import ApiError, too_long
from temper.gateway.http import Limits, Request, Response, Server
from temper.gateway.pieces import Pieces
from temper.gateway.sessions import Heard, Prompt, Session

HEARTBEAT = 5.0  # seconds of silence in a stream before a comment says that somebody is at work
SILENCE = (-1, -1)
LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Gateway:
    """An OpenAI-compatible server in the running event loop.

    everyone  the session of clients without a key (None: a key is needed)
    """

    def __init__(self, everyone: Session | None = None, limits: Limits | None = None):
        self.everyone = everyone
        self.server = Server(self.handle, limits)
        self.host, self.port = "", 0
        self._keys: dict[bytes, Session] = {}
        self._busy: dict[int, set[asyncio.Task[Any]]] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; returns the base URL. A door that others can reach needs a key."""
        if self.everyone is not None and not loopback(host):
            raise UserError(f"{host} can be reached from other machines: set a token, or listen on 127.0.0.1")
        try:
            self.port = await self.server.start(host, port)
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}")
        self.host = host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    def admit(self, session: Session, key: str | None = None) -> str:
        """Open a session to whoever has the key; returns it (a random one when none is given)."""
        key = key or f"temper-{secrets.token_urlsafe(24)}"
        self._keys[_digest(key)] = session
        return key

    def revoke(self, key: str) -> None:
        """Close the session: what it is still sampling is cancelled, and its key opens nothing any more."""
        session = self._keys.pop(_digest(key), None)
        for task in self._busy.pop(id(session), set()):
            task.cancel()

    def close(self) -> None:
        self.server.close()

    async def handle(self, request: Request) -> Response:
        """One request."""
        path = request.path.rstrip("/") or "/"
        methods = {"GET": self._read, "POST": self._write}
        if request.method == "HEAD" or request.method not in methods:
            raise ApiError(405, f"the method {request.method} is not used here")
        return await methods[request.method](path, request)

    async def _read(self, path: str, request: Request) -> Response:
        if path == "/health":
            return Response(b'{"status": "ok"}')
        if path in ("/v1/chat/completions", "/v1/completions"):
            raise ApiError(405, f"{path} wants POST")
        if path != "/v1/models" and not path.startswith("/v1/models/"):
            raise _no_path(path)
        name = self._session(request).model or "policy"
        row = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "temper"}
        if path == "/v1/models":
            return Response(_json({"object": "list", "data": [row]}))
        if path.removeprefix("/v1/models/") != name:
            raise _no_model(path.removeprefix("/v1/models/"))
        return Response(_json(row))

    async def _write(self, path: str, request: Request) -> Response:
        if path not in ("/v1/chat/completions", "/v1/completions"):
            raise _no_path(path) if path not in ("/health", "/v1/models") else ApiError(405, f"{path} wants GET")
        session = self._session(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the body must be sent as application/json")
        row = asked_.parse(request.body)
        asked = asked_.chat(row) if path == "/v1/chat/completions" else asked_.text(row)
        if session.model is not None and asked.model != session.model:
            raise _no_model(asked.model)
        prompt = session.prompt(asked)
        writer = Writer(asked, prompt, session.render.tokenizer)
        if asked.stream:
            events = self._stream(session, asked, prompt, writer)
            return Response(events, type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return Response(writer.whole(await self._choices(session, asked, prompt)))

    def _session(self, request: Request) -> Session:
        """Whose request this is."""
        if self.everyone is not None:
            self._same_machine(request)
            return self.everyone
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        session = self._keys.get(_digest(key.strip())) if kind.lower() == "bearer" else None
        if session is None:
            raise ApiError(401, "this key opens nothing here (Authorization: Bearer KEY)", code="invalid_api_key")
        return session

    def _same_machine(self, request: Request) -> None:
        """A page in a browser must not reach an open door by a name of its own for this machine."""
        name = request.headers.get("host", LOCAL[0]).lower()
        name = name if name.endswith("]") else name.rpartition(":")[0] or name
        if name not in LOCAL and not loopback(name.strip("[]")):
            raise ApiError(403, f"this server is not {name[:100]!r}")

    async def _choices(
        self, session: Session, asked: Asked, prompt: Prompt, hear: Callable[[int], Heard] | None = None
    ) -> list[Choice]:
        """All choices, sampled together, and cancelled together. hear: who listens to the tokens of the n-th."""
        ears = [hear(n) if hear else None for n in range(asked.n)]
        tasks = [asyncio.ensure_future(session.sample(prompt, asked, n, ear)) for n, ear in enumerate(ears)]
        busy = self._busy.setdefault(id(session), set())
        busy.update(tasks)
        try:
            said = await asyncio.gather(*tasks)
        except ContextFull:
            raise too_long(len(prompt.ids), session.render.context)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt", code="invalid_value")
        finally:
            for task in tasks:
                task.cancel()
            busy.difference_update(tasks)
            if not busy:
                self._busy.pop(id(session), None)
        choices = [choice(asked, s, session) for s in said]
        for c in choices:
            session.note(prompt, asked, c.said, c.message)
        return choices

    async def _stream(
        self, session: Session, asked: Asked, prompt: Prompt, writer: Writer
    ) -> AsyncIterator[bytes]:  # fmt: skip
        for event in writer.opening():
            yield event
        came: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        pieces = [Pieces(session.render.tokenizer, asked.stop) for _ in range(asked.n)]
        live = not (asked.tools or asked.logprobs)  # calls and log-probs are told at the end
        hear = (lambda n: lambda token: came.put_nowait((n, token))) if live else None
        work = asyncio.ensure_future(self._choices(session, asked, prompt, hear))
        work.add_done_callback(lambda _: came.put_nowait(None))
        try:
            while (heard := await _next(came)) is not None:
                if heard == SILENCE:
                    yield b": sampling\n\n"
                elif text := pieces[heard[0]].add(heard[1]):
                    yield writer.piece(heard[0], text)
            choices = work.result()
        except ApiError as error:
            yield b"data: " + error.body() + b"\n\n"
            return
        finally:
            work.cancel()
        for index, c in enumerate(choices):
            for event in writer.chunks(index, c, pieces[index].sent):
                yield event
        for event in writer.closing(choices):
            yield event


async def _next(came: asyncio.Queue[tuple[int, int] | None]) -> tuple[int, int] | None:
    try:
        return await asyncio.wait_for(came.get(), HEARTBEAT)
    except TimeoutError:
        return SILENCE


def loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _json(value: dict[str, Any] | Sequence[Any]) -> bytes:
    return json.dumps(value).encode()


def _no_path(path: str) -> ApiError:
    return ApiError(404, f"there is nothing at {path[:200]}", code="unknown_url")


def _no_model(name: str) -> ApiError:
    return ApiError(404, f"the model {name[:200]!r} does not exist here", param="model", code="model_not_found")
