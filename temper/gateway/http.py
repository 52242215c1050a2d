"""HTTP/1.1 on asyncio streams, as much as an API needs: bounded, with deadlines, keep-alive and chunked both ways.

A client that goes away cancels its handler. So does one that only half-closes: the two look alike until something is
written, and a sampler should not work for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from temper.gateway.errors import ApiError

LOG = logging.getLogger("temper.gateway")
LINE = re.compile(r"([A-Z]{1,16}) (\S{1,4096}) HTTP/1\.([01])")
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
ONCE = ("content-length", "transfer-encoding", "host", "authorization", "content-type")
POLL = 0.1  # seconds between two looks at whether the client is still there
DRAIN = 64 * 2**20  # bytes of a refused body that are read and thrown away, so that its sender sees the refusal


@dataclass(frozen=True)
class Limits:
    """Bytes and seconds. head, body: sizes; idle: between requests; reading: of one request; writing: of one piece."""

    head: int = 32 * 1024
    body: int = 8 * 2**20
    idle: float = 75.0
    reading: float = 30.0
    writing: float = 60.0
    connections: int = 4096


@dataclass(frozen=True)
class Request:
    """One request. Header names are lower case; `path` is without its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    keep: bool = True
    chunks: bool = True  # whether the client can read a chunked answer


@dataclass(frozen=True)
class Response:
    """`body` is bytes, or pieces that are sent as they come."""

    body: bytes | AsyncIterator[bytes]
    status: int = 200
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """Listens, and gives every request to `handler`."""

    def __init__(self, handler: Handler, limits: Limits | None = None):
        self.handler, self.limits = handler, limits or Limits()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (a free one when 0 was asked for)."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=self.limits.head, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()

    async def closed(self) -> None:
        """Close, and wait until every handler is over."""
        self.close()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > self.limits.connections:
                await self._refuse(ApiError(503, "too many connections"), reader, writer)
                return
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.CancelledError, TimeoutError):
            pass  # the client is gone, or the server closes: either way the connection ends here
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another one may follow."""
        try:
            request = await read_request(reader, writer, self.limits)
        except ApiError as error:
            await self._refuse(error, reader, writer)
            return False
        if request is None:
            return False
        answer = asyncio.ensure_future(self._answer(request, writer))
        gone = asyncio.ensure_future(_gone(reader, writer))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            return answer.done() and not answer.cancelled() and answer.result()
        finally:
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        try:
            response = await self.handler(request)
        except ApiError as error:
            response = Response(error.body(), error.status)
        except Exception:
            LOG.exception("a request to %s failed", request.path)
            response = Response(ApiError(500, "the server failed on this request; its log says why").body(), 500)
        return await self._send(response, writer, request.keep, request.chunks)

    async def _refuse(self, error: ApiError, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._send(Response(error.body(), error.status), writer, False, False)
        if error.status == 408:
            return  # it had its time
        if writer.can_write_eof():
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_throw_away(reader), 5)

    async def _send(self, response: Response, writer: asyncio.StreamWriter, keep: bool, chunks: bool) -> bool:
        """Write a response; whether the connection stays open."""
        body = response.body
        keep = keep and (isinstance(body, bytes) or chunks)
        head = {"Content-Type": response.type, "Connection": "keep-alive" if keep else "close", **response.headers}
        if isinstance(body, bytes):
            writer.write(_head(response.status, {**head, "Content-Length": str(len(body))}) + body)
            await self._drain(writer)
            return keep
        writer.write(_head(response.status, {**head, **({"Transfer-Encoding": "chunked"} if chunks else {})}))
        try:
            async for piece in body:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunks else piece)
                await self._drain(writer)
        except (OSError, TimeoutError):
            raise
        except Exception:  # the answer has begun: all that can be said is that it does not end well
            LOG.exception("an answer failed while it was sent")
            return False
        writer.write(b"0\r\n\r\n" if chunks else b"")
        await self._drain(writer)
        return keep

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait_for(writer.drain(), self.limits.writing)


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
) -> Request | None:  # fmt: skip
    """The next request; None when the client has no more."""
    try:
        first = await asyncio.wait_for(reader.read(1), limits.idle)
    except TimeoutError:
        return None
    if not first:
        return None
    try:
        return await asyncio.wait_for(_request(first, reader, writer, limits), limits.reading)
    except TimeoutError:
        raise ApiError(408, f"the request did not arrive within {limits.reading:g} s")
    except asyncio.IncompleteReadError:
        raise ApiError(400, "the connection ended in the middle of a request")
    except asyncio.LimitOverrunError:
        raise ApiError(431, f"the request's head is longer than {limits.head} bytes")


async def _request(first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> Request:
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head[:-4].split("\r\n")
    match = LINE.fullmatch(line)
    if match is None:
        raise ApiError(400, "this is not an HTTP/1.1 request")
    method, target, minor = match.groups()
    headers = _headers(rest)
    body = await _body(headers, reader, writer, limits)
    said = headers.get("connection", "").lower()
    keep = "close" not in said and (minor == "1" or "keep-alive" in said)
    return Request(method, target.partition("?")[0], headers, body, keep, minor == "1")


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        match = HEADER.fullmatch(line)
        if match is None:
            raise ApiError(400, "a header line is malformed")
        name, value = match[1].lower(), match[2]
        if name in ONCE and name in found:
            raise ApiError(400, f"the header {name} comes twice")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _body(
    headers: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
) -> bytes:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None and length is not None:
        raise ApiError(400, "a body has either a Content-Length or a Transfer-Encoding")
    if coding is not None and coding.lower() != "chunked":
        raise ApiError(501, "the only Transfer-Encoding understood is chunked")
    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
        raise ApiError(400, "Content-Length is not a number")
    if length is not None and int(length) > limits.body:
        raise _too_large(limits)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if coding is not None:
        return await _chunks(reader, limits)
    return await reader.readexactly(int(length or 0))


async def _chunks(reader: asyncio.StreamReader, limits: Limits) -> bytes:
    body = bytearray()
    while True:
        match = re.fullmatch(rb"([0-9a-fA-F]{1,8})[ \t]*(;[^\r\n]*)?\r\n", await reader.readuntil(b"\r\n"))
        if match is None:
            raise ApiError(400, "a chunk has no size")
        size = int(match[1], 16)
        if len(body) + size > limits.body:
            raise _too_large(limits)
        if size == 0:
            await _trailers(reader)
            return bytes(body)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ApiError(400, "a chunk is longer than its size")


async def _trailers(reader: asyncio.StreamReader) -> None:
    for _ in range(16):
        if await reader.readuntil(b"\r\n") == b"\r\n":
            return
    raise ApiError(400, "too many trailers")


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"the body is larger than {limits.body} bytes", code="request_too_large")


async def _throw_away(reader: asyncio.StreamReader) -> None:
    left = DRAIN
    while left > 0 and (data := await reader.read(65536)):
        left -= len(data)


async def _gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Returns when nobody waits for the answer any more."""
    while not (reader.at_eof() or writer.transport.is_closing()):
        await asyncio.sleep(POLL)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
    return "\r\n".join([f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode()
