"""A gateway in a thread of its own, in front of a toy model or of prepared answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from temper.backends.base import SamplingParams
from temper.episode import Completion
from temper.gateway.http import Limits
from temper.gateway.render import Renderer
from temper.gateway.server import Gateway
from temper.gateway.sessions import Open
from temper.models.load import turn_ends


class Scripted:
    """A sampler that says what it was told, one text after another (the last one for ever)."""

    context, end = 512, ()

    def __init__(self, tokenizer: Any, *texts: str, pause: float = 0.0):
        self.tokenizer, self.texts, self.pause = tokenizer, list(texts), pause
        self.asked: list[tuple[int, ...]] = []
        self.cancelled = 0

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        self.asked.append(ids)
        try:
            await asyncio.sleep(self.pause)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        said = (*self.tokenizer.encode(text, add_special_tokens=False), turn_ends(self.tokenizer)[-1])
        return Completion(said, (-1.0,) * len(said), text=text, temperature=params.temperature)


@contextlib.contextmanager
def opened(
    sampler: Any, tokenizer: Any, *, token: str | None = None, limits: Limits | None = None, max_tokens: int = 8
) -> Iterator[Gateway]:
    """A listening gateway; `gateway.url` is its base URL."""
    session = Open("toy", sampler, Renderer(tokenizer, sampler.context), SamplingParams(max_tokens=max_tokens))
    gateway: Any = Gateway(session if token is None else None, limits)
    if token is not None:
        gateway.admit(session, token)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def there(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    gateway.url = there(gateway.start())
    try:
        yield gateway
    finally:
        there(gateway.server.closed())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def raw(gateway: Gateway, *pieces: bytes, half_close: bool = False, wait: float = 5.0) -> bytes:
    """Send bytes as they are; what comes back until the server closes, or is silent for `wait` seconds."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=wait) as s:
        with contextlib.suppress(OSError):
            for piece in pieces:
                s.sendall(piece)
            if half_close:
                s.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(OSError):
            while data := s.recv(65536):
                found += data
        return found


def post(body: bytes, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """The bytes of a POST that closes the connection."""
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body)),
             "Connection": "close", **{k.replace("_", "-"): v for k, v in headers.items()}}  # fmt: skip
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in lines.items()), "", ""]).encode() + body
