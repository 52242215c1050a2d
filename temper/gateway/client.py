"""One HTTP/1.1 request on asyncio streams: JSON there and back, with a deadline and a limit to the answer."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?")
LIMIT = 8 * 2**20  # bytes of an answer
HEAD = 64 * 1024


class Unreachable(Exception):
    """No answer, or none that can be used: nobody listens, the connection ended, it took too long, it is malformed."""


class Refused(Exception):
    """An answer that says no: its status and its words."""

    def __init__(self, status: int, words: str):
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


async def ask(
    url: str, body: Any = None, *, token: str = "", deadline: float = 60.0, limit: int = LIMIT, method: str = ""
) -> Any:
    """POST `body` as JSON (GET where it is None), and read what comes back: JSON, or None for an empty answer.

    deadline  seconds for all of it
    limit     bytes of the answer

    Unreachable without a usable answer, Refused for a status from 400 on. Cancelling it closes the connection.
    """
    try:
        async with asyncio.timeout(deadline):
            status, data = await _exchange(url, body, token, limit, method)
    except TimeoutError:
        raise Unreachable(f"no answer within {deadline:g} s")
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if status >= 400:
        raise Refused(status, _words(data))
    try:
        return json.loads(data) if data.strip() else None
    except (ValueError, RecursionError):
        raise Unreachable(f"the answer is not JSON: {data[:60]!r}")


async def _exchange(url: str, body: Any, token: str, limit: int, method: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http address")
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure, limit=HEAD)
    try:
        data = b"" if body is None else json.dumps(body, allow_nan=False).encode()
        heads = {
            "Host": parts.netloc.rpartition("@")[2], "Connection": "close", "Content-Length": str(len(data)),
            "Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {}),
        }  # fmt: skip
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [
            f"{method or ('GET' if body is None else 'POST')} {target} HTTP/1.1",
            *(f"{k}: {v}" for k, v in heads.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        await writer.drain()
        return await _answer(reader, limit)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, limit: int) -> tuple[int, bytes]:
    first, *rest = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    match = STATUS.fullmatch(first)
    if match is None:
        raise ValueError(f"not an HTTP answer: {first[:60]!r}")
    heads = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in rest)}
    return int(match[1]), await _body(reader, heads, limit)


async def _body(reader: asyncio.StreamReader, heads: Mapping[bytes, bytes], limit: int) -> bytes:
    length = heads.get(b"content-length")
    if heads.get(b"transfer-encoding", b"").lower() == b"chunked":
        whole = bytearray()
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            _fits(len(whole) + size, limit)
            whole += await reader.readexactly(size)
            await reader.readexactly(2)
        return bytes(whole)
    if length is None:
        data = bytearray()
        while piece := await reader.read(65536):
            data += piece
            _fits(len(data), limit)
        return bytes(data)
    _fits(int(length), limit)
    return await reader.readexactly(int(length))


def _fits(size: int, limit: int) -> None:
    if not 0 <= size <= limit:
        raise ValueError(f"the answer is larger than {limit} bytes")


def _words(data: bytes) -> str:
    """What an error says, in one line."""
    try:
        said = json.loads(data)
        error = said.get("error", said)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        text = data.decode("utf-8", "replace")
    return " ".join(text.split())[:500]
