"""Tools of a server of the Model Context Protocol, by the official client: `pip install 'temper-rl[mcp]'`.

    server = McpServer([sys.executable, "-m", "mcp_server_time"])         # a process, over its standard streams
    server = McpServer("http://127.0.0.1:8000/mcp")                       # streamable HTTP
    box = Toolbox(server.tools())

What comes back from a call (specification 2025-11-25 and 2026-07-28, "Tools", "Error handling"):

    ok          a result: its text; where there is none, its structured content as JSON
    tool error  a result with isError, or a JSON-RPC error
    timeout     no result in time; the call is cancelled
    refused     the server knows no such tool, or asks for a person's input
    fault       the server cannot be started or reached, ended, or answered what is not the protocol

Each episode has a server process (or HTTP session) of its own, begun by its first call; after a fault the next episode
begins another. A process sees HOME, LOGNAME, PATH, SHELL, TERM and USER, and no other variable that is not in `env`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from temper.errors import UserError
from temper.tools.base import Fault, Result
from temper.tools.mcp_session import CLOSE_SECONDS, Session, package


class McpServer:
    """`at`: a command with its arguments, or the address of an endpoint.

    env, cwd  more environment variables, and the directory of the process; headers: of HTTP requests
    seconds   of one call; start_seconds: until a new server is ready
    shared    one process or session for all episodes: for servers without state
    """

    def __init__(
        self,
        at: Sequence[str] | str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 10.0,
        start_seconds: float = 30.0,
        shared: bool = False,
    ):
        if not at or seconds <= 0 or start_seconds <= 0:
            raise UserError(f"an MCP server needs a command or an address, and positive times (got {at!r})")
        package()
        self.at = at if isinstance(at, str) else tuple(at)
        self.env, self.cwd, self.headers = dict(env or {}), cwd, dict(headers or {})
        self.seconds, self.start_seconds, self.shared = seconds, start_seconds, shared
        self.common = Session(self)
        self._newest: Session | None = None
        self._taken: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def tools(self, only: Sequence[str] = (), prefix: str = "") -> list[McpTool]:
        """The server's tools (`only`: these), under their names behind `prefix`. UserError when there are none."""
        try:
            listed = self.wait(self.common.list(), 2 * self.start_seconds)
        except (Fault, TimeoutError) as error:
            self.close()
            raise UserError(f"cannot list the tools of the MCP server {self.name}: {error}") from None
        if not self.shared:
            self.wait(self.common.stop(), CLOSE_SECONDS)
        known = {tool.name: tool for tool in listed}
        missing = [name for name in only if name not in known]
        if missing or not known:
            self.close()
            wanted = ", ".join(missing) or "at all"
            raise UserError(f"the MCP server {self.name} has no tool {wanted}; it has: {', '.join(known) or 'none'}")
        return [McpTool(self, known[name], prefix, self.common) for name in only or known]

    @property
    def name(self) -> str:
        return self.at if isinstance(self.at, str) else " ".join(self.at)

    def session(self, tool: str) -> Session:
        """That of the episode that is being opened: `Toolbox.episode` asks each of its tools in turn."""
        if self._newest is None or tool in self._taken:
            self._newest, self._taken = Session(self), set()
        self._taken.add(tool)
        return self._newest

    def submit(self, work: Any) -> concurrent.futures.Future[Any]:
        """Run a coroutine in the thread where all of the server's sessions live, whatever loop the caller is in."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="temper-mcp", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Any, seconds: float) -> Any:
        future = self.submit(work)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError(f"no answer within {seconds:g} s") from None

    def close(self) -> None:
        """End the shared session and the thread; the server may be used again."""
        if self._loop is not None:
            loop = self._loop
            try:
                self.wait(self.common.stop(), CLOSE_SECONDS)
            finally:
                self._loop = None
                loop.call_soon_threadsafe(loop.stop)


class McpTool:
    """One tool of a server, in the session of one episode or in the common one."""

    cacheable = False
    own_deadline = True  # starting the server is not the policy's fault

    def __init__(self, server: McpServer, listed: Any, prefix: str, session: Session):
        self.server, self.listed, self.prefix, self.current = server, listed, prefix, session
        self.name, self.description = prefix + listed.name, listed.description or listed.title or listed.name
        self.parameters = _schema(listed.input_schema, self.name)

    async def __call__(self, **arguments: Any) -> Result:
        calling = self.server.submit(self.current.call(self.listed.name, arguments))
        result: Result = await asyncio.wrap_future(calling)
        return result

    def fresh(self) -> McpTool:
        """For one episode."""
        if self.server.shared:
            return self
        return McpTool(self.server, self.listed, self.prefix, self.server.session(self.name))

    async def close(self) -> None:
        """End the session; the server too, when this is not an episode's tool."""
        if self.current is self.server.common:
            await asyncio.to_thread(self.server.close)
        else:
            await asyncio.wrap_future(self.server.submit(self.current.stop()))


def _schema(given: Mapping[str, Any], tool: str) -> dict[str, Any]:
    """A schema that `temper.tools.schema` can read: `true` and `false` are schemas too, which allow all and nothing."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(given).check_schema(given)
    except SchemaError as error:
        raise UserError(f"the schema of the MCP tool {tool!r} is not valid: {error.message[:200]}") from None
    schema: dict[str, Any] = _plain(given)
    return schema


def _plain(rule: Any) -> Any:
    if isinstance(rule, bool):
        return {} if rule else {"enum": []}
    plain = dict(rule)
    if "properties" in plain:
        plain["properties"] = {name: _plain(one) for name, one in plain["properties"].items()}
    if "items" in plain:
        plain["items"] = _plain(plain["items"])
    return plain
