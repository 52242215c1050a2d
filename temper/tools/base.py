"""What a tool is, and the box that runs calls: checked arguments, a deadline, a typed outcome, bounded output.

box = Toolbox([Calculator(), Python()], timeout=5.0)
async with box.episode() as tools:                      # tools with state get one of their own for this episode
    result = await tools.run(Call("calculator", {"expression": "2**61 - 1"}))
result.text, result.outcome                             # "2305843009213693951", "ok"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from temper.errors import UserError
from temper.tools.schema import complaint

Outcome = Literal["ok", "tool error", "timeout", "refused", "fault"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
OUTPUT_LIMIT = 4000  # characters of a result that a policy gets to see
ARGUMENTS_LIMIT = 100_000  # characters of a call's arguments as JSON
DEPTH_LIMIT = 64  # lists and objects within one another
CACHE_SIZE = 4096  # results


@dataclass(frozen=True)
class Call:
    """What a policy asked for."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What it gets back: `text` is shown to the policy whatever the outcome is.

    ok          the tool did it
    tool error  the tool says no: wrong arguments, an exception in the policy's code
    timeout     the deadline passed
    refused     there is no such tool, the call cannot be read, or it asks for what is not allowed
    fault       the infrastructure failed: the environment raises `Drop`, it is never a reward of 0
    """

    text: str
    outcome: Outcome = "ok"


class Fault(Exception):
    """Raised by a tool: not the policy's doing (a server is down, a process cannot be started)."""


class Tool(Protocol):
    """Something to call. `parameters` is the JSON schema of an object: the arguments.

    Optional: `fresh()` gives the tool of one episode (where it has state), `close()` (plain or async) ends it;
    `cacheable = False` when the same arguments may give another result; `own_deadline = True` when the tool itself
    ends a call that takes too long (and knows what was waiting in a queue).
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...

    async def __call__(self, *none: Any, **arguments: Any) -> Result: ...


def schema(tool: Tool) -> dict[str, Any]:
    """The "function" form of a tool, for `apply_chat_template(tools=[…])` and OpenAI requests."""
    described = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": described}


def nested(value: Any, limit: int = DEPTH_LIMIT) -> bool:
    """Whether more than `limit` lists and mappings stand within one another."""
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    inside = value.values() if isinstance(value, Mapping) else value
    return limit == 0 or any(nested(v, limit - 1) for v in inside)


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters: the head and the tail, and how much is missing between them."""
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = limit - head
    return f"{text[:head]}\n[… {len(text) - limit} characters left out …]\n{text[len(text) - tail :]}"


class Toolbox:
    """Tools by name. `run` never raises for what a policy or a tool does (only UserError, for what a recipe asks);
    `counts` says how calls ended; `timed` is told when one runs (a run's report sets it).

    timeout    seconds of one call
    cache      remember results by name and arguments (of tools that allow it)
    limit      characters of a result's text
    """

    def __init__(self, tools: Sequence[Tool], timeout: float = 10.0, cache: bool = False, *, limit: int = OUTPUT_LIMIT):
        self.tools = {tool.name: tool for tool in tools}
        if len(self.tools) != len(tools):
            raise UserError("two tools of one toolbox have the same name")
        if timeout <= 0 or limit < 1:
            raise UserError(f"a toolbox needs a positive timeout and limit, got {timeout} and {limit}")
        self.timeout, self.limit = timeout, limit
        self.counts: Counter[str] = Counter()
        self.timed: Callable[[str], contextlib.AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
        self._cache: OrderedDict[str, Result] | None = OrderedDict() if cache else None

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """Every tool in the "function" form."""
        return [schema(tool) for tool in self.tools.values()]

    async def run(self, call: Call | Result) -> Result:
        """Run a call. A Result (what `calls.parse` makes of an unreadable call) is counted and handed back."""
        with self.timed("tools"):
            result = call if isinstance(call, Result) else await self._answer(call)
        self.counts[result.outcome] += 1
        return Result(cut(_clean(result.text), self.limit), result.outcome)

    @contextlib.asynccontextmanager
    async def episode(self) -> AsyncIterator[Toolbox]:
        """The same tools with fresh state, closed at the end; counts and cache are shared."""
        fresh = [tool.fresh() if hasattr(tool, "fresh") else tool for tool in self.tools.values()]
        box = Toolbox(fresh, self.timeout, limit=self.limit)
        box.counts, box.timed, box._cache = self.counts, self.timed, self._cache
        try:
            yield box
        finally:
            await _close([new for new, old in zip(fresh, self.tools.values(), strict=True) if new is not old])

    async def close(self) -> None:
        """End what the tools hold (processes, files)."""
        await _close(list(self.tools.values()))

    async def _answer(self, call: Call) -> Result:
        tool = self.tools.get(call.name)
        if tool is None:
            return Result(f"There is no tool {call.name[:80]!r}. Tools: {', '.join(self.tools) or 'none'}.", "refused")
        try:
            key = json.dumps([call.name, call.arguments], sort_keys=True, default=dict)
        except (TypeError, ValueError, RecursionError) as error:
            return Result(f"The arguments are not JSON: {error}.", "tool error")
        if len(key) > ARGUMENTS_LIMIT:
            return Result(f"The arguments are too long ({len(key)} characters, at most {ARGUMENTS_LIMIT}).", "refused")
        if wrong := complaint(call.arguments, tool.parameters):
            return Result(f"{call.name}: {wrong}.", "tool error")
        if self._cache is None or not getattr(tool, "cacheable", True):
            return await self._call(tool, call)
        return await self._remembered(key, tool, call)

    async def _remembered(self, key: str, tool: Tool, call: Call) -> Result:
        assert self._cache is not None
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        result = await self._call(tool, call)
        if result.outcome in ("ok", "tool error"):  # what a second attempt would not change
            self._cache[key] = result
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return result

    async def _call(self, tool: Tool, call: Call) -> Result:
        """A tool's own exceptions are tool errors, except for those that no policy can cause at will."""
        try:
            seconds = None if getattr(tool, "own_deadline", False) else self.timeout
            result = await asyncio.wait_for(tool(**call.arguments), seconds)
        except UserError:  # the recipe asks for what this machine cannot do
            raise
        except TimeoutError:
            return Result(f"{call.name}: no result within {self.timeout:g} s.", "timeout")
        except (Fault, ConnectionError) as error:
            return Result(f"{call.name}: {type(error).__name__}: {error}", "fault")
        except Exception as error:
            return Result(f"{call.name}: {type(error).__name__}: {error}", "tool error")
        return result if isinstance(result, Result) else Result(str(result))


def _clean(text: str) -> str:
    """Without lone surrogates, which no tokenizer can encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


async def _close(tools: Sequence[Any]) -> None:
    """Close every tool, whatever the others raise."""
    async with contextlib.AsyncExitStack() as stack:
        for tool in tools:
            stack.push_async_callback(_close_one, tool)


async def _close_one(tool: Any) -> None:
    closed = tool.close() if hasattr(tool, "close") else None
    if closed is not None:
        await closed
