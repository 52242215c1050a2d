"""A connection to an MCP server, and what its answers mean (see `temper.tools.mcp`)."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from contextlib import AsyncExitStack
from typing import Any

from temper.errors import UserError
from temper.tools.base import Fault, Result

CLOSE_SECONDS = 10.0
PAGES = 100  # of a list of tools


class Session:
    """A connection, begun by the first use. Lives in the server's thread, in a task that opens and closes it."""

    def __init__(self, server: Any):
        self.server = server
        self._owner: asyncio.Task[None] | None = None
        self._client: asyncio.Future[Any] | None = None
        self._over: asyncio.Event | None = None

    async def list(self) -> list[Any]:
        """All pages."""
        client, tools, cursor = await self._connected(), [], None
        for _ in range(PAGES):
            try:
                page = await asyncio.wait_for(client.list_tools(cursor=cursor), self.server.start_seconds)
            except Exception as error:
                raise Fault(f"{type(error).__name__}: {error}") from None
            tools += page.tools
            if (cursor := page.next_cursor) is None:
                break
        return tools

    async def call(self, name: str, arguments: dict[str, Any]) -> Result:
        """One call, with its outcome; Fault where the server is to blame."""
        client = await self._connected()
        try:
            async with asyncio.timeout(self.server.seconds):
                return _result(await client.call_tool(name, arguments))
        except TimeoutError:
            return Result(f"{name}: no result within {self.server.seconds:g} s.", "timeout")
        except Exception as error:
            return await self._failed(name, error)

    async def stop(self) -> None:
        """End the connection, and the process behind it."""
        owner, self._owner = self._owner, None
        if owner is None or self._over is None:
            return
        self._over.set()
        done, _ = await asyncio.wait([owner], timeout=CLOSE_SECONDS)
        if not done:
            owner.cancel()

    async def _connected(self) -> Any:
        if self._owner is None or self._client is None:
            self._client, self._over = asyncio.get_running_loop().create_future(), asyncio.Event()
            self._client.add_done_callback(lambda f: f.cancelled() or f.exception())
            self._owner = asyncio.create_task(self._own(self._client, self._over))
        return await asyncio.shield(self._client)

    async def _own(self, ready: asyncio.Future[Any], over: asyncio.Event) -> None:
        try:
            async with AsyncExitStack() as stack:
                with tempfile.TemporaryFile("w+") as said:
                    try:
                        async with asyncio.timeout(self.server.start_seconds):
                            ready.set_result(await stack.enter_async_context(await self._client_of(stack, said)))
                    except BaseException as error:
                        ready.set_exception(Fault(f"{_reason(error)}{_last(said)}"))
                        raise
                await over.wait()
        except (Exception, asyncio.CancelledError):  # what a call was told already
            self._owner = None

    async def _client_of(self, stack: AsyncExitStack, said: Any) -> Any:
        mcp = package()
        if not isinstance(self.server.at, str):
            command, *arguments = self.server.at
            how = mcp.StdioServerParameters(
                command=command,
                args=arguments,
                env=self.server.env,
                cwd=self.server.cwd,
                encoding_error_handler="replace",
            )
            return mcp.Client(mcp.stdio_client(how, errlog=said))
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        http = await stack.enter_async_context(create_mcp_http_client(headers=self.server.headers))
        return mcp.Client(streamable_http_client(self.server.at, http_client=http))

    async def _failed(self, name: str, error: Exception) -> Result:
        """An error of the protocol is the tool's; a lost connection is a fault, and the next use connects again."""
        mcp = package()
        if isinstance(error, mcp.MCPError) and error.code != mcp.types.CONNECTION_CLOSED:
            if error.code == mcp.types.REQUEST_TIMEOUT:
                return Result(f"{name}: {error.message}", "timeout")
            unknown = error.code == mcp.types.METHOD_NOT_FOUND or "unknown tool" in error.message.lower()
            return Result(f"{name}: {error.message}", "refused" if unknown else "tool error")
        if isinstance(error, mcp.InputRequiredRoundsExceededError | mcp.UrlElicitationRequiredError):
            return Result(f"{name}: the server asks for a person's input.", "refused")
        await self.stop()
        raise Fault(f"the MCP server {self.server.name}: {_reason(error)}")


def _result(called: Any) -> Result:
    text = "\n".join(filter(None, map(_text, called.content)))
    if not text and called.structured_content is not None:
        text = json.dumps(called.structured_content, ensure_ascii=False)
    return Result(text, "tool error" if called.is_error else "ok")


def _text(block: Any) -> str:
    """Text as it is; what cannot be shown is named."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource":
        return str(
            getattr(block.resource, "text", None) or f"[{block.resource.mime_type or 'data'} {block.resource.uri}]"
        )
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    return f"[{getattr(block, 'mime_type', block.type)}, {len(getattr(block, 'data', ''))} characters of base64]"


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "not ready in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"[:300]


def _last(said: Any) -> str:
    """The last line of what the process wrote on standard error."""
    said.seek(0, os.SEEK_SET)
    lines = said.read(100_000).strip().splitlines()
    return f" ({lines[-1][:300]})" if lines else ""


def package() -> Any:
    try:
        import mcp
    except ImportError:
        raise UserError("MCP servers need the package mcp: pip install 'temper-rl[mcp]'") from None
    if not hasattr(mcp, "Client"):
        raise UserError("MCP servers need version 2.3 of the package mcp or a newer one: pip install 'temper-rl[mcp]'")
    return mcp
