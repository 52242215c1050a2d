"""Environments behind OpenEnv servers, through their own clients: `pip install 'temper-rl[openenv]'`.

    env = OpenEnv(partial(ReasoningGymEnv, base_url="http://127.0.0.1:8000"))
    train = env.tasks("Answer with a word.", n=1000, dataset_name="spell_backward")     # seeds 0 … 999 of reset

A session of its own for each attempt: `reset` shows the first observation, each turn of the policy is one `step`, until
it is done. With a client for tools (MCPToolClient) each call is a step instead. Read with openenv 0.10. Its client
opens a lost connection again, to an environment that was never reset: here the attempt is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.envs.tools import ToolUse
from temper.episode import Episode, Recorder, Trajectory
from temper.errors import UserError
from temper.foreign.beside import brief, finite, readable
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import Fault, Result, Toolbox, nested

REFUSED = ("VALIDATION_ERROR", "INVALID_JSON")  # codes of an action that is none: the policy is told
CLOSING = 2.0  # seconds for saying good-bye
HIDDEN = ("done", "reward", "metadata")  # what an observation's text leaves out


class _Failed(Exception):
    """The environment raised in a step."""


class _Invalid(Exception):
    """The policy's text is no action."""


@dataclass
class OpenEnv:
    """A policy in the environment of an OpenEnv server, with the sum of the steps' rewards.

    client   makes a client: a subclass of EnvClient, with a base_url
    field    of the action, for the policy's text (default: the one text that the action must have; where it must have
             other fields, the policy writes a JSON object)
    act      the policy's text → the action, instead; raises ValueError for what is none
    show     an observation → text (default: its one text, or JSON of what it has)
    total    the rewards of the steps → the trajectory's
    turns    most turns that the policy takes; tokens: most that it samples in all (0: no limit)
    timeout  seconds for connecting, resetting and each step; attempts: sessions at once; limit: characters of an
             observation that the policy sees
    blame    an attempt whose step raised or ran out of time counts with its rewards so far; without it, it has none
    """

    client: Callable[[], Any]
    field: str = ""
    act: Callable[[str], Any] | None = None
    show: Callable[[Any], str] | None = None
    total: Callable[[Sequence[float]], float] = sum
    turns: int = 16
    tokens: int = 0
    timeout: float = 60.0
    attempts: int = 16
    limit: int = 20_000
    blame: bool = False
    role: str = "solver"
    writes = (REWARD,)

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.attempts < 1 or self.limit < 1:
            raise UserError("timeout, attempts and limit of an OpenEnv environment must be positive")
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def tasks(self, prompt: str = "", n: int = 1000, name: str = "openenv", **reset: Any) -> list[Task]:
        """`n` seeds; `prompt` stands before the first observation, `reset` are further arguments of the reset."""
        return [Task(f"{name}/{k}", prompt, source=name, info={"reset": {"seed": k, **reset}}) for k in range(n)]

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._free = asyncio.get_running_loop(), asyncio.Semaphore(self.attempts)
        async with self._free:
            client = self._made()
            try:
                session = _Session(client, self.timeout)
                first = self._text(await session.reset(task.info.get("reset") or {}))
                prompt = [{"role": "user", "content": "\n\n".join(filter(None, (_prompt(task), first)))}]
                if self.act is None and hasattr(client, "list_tools"):
                    episode = await self._call(task, prompt, roles, session)
                else:
                    chat = Chat(roles[self.role], Recorder(task), turns=self.turns, tokens=self.tokens)
                    chat.start(prompt)
                    session.wrong = await self._talk(chat, session)
                    chat.judge()
                    episode = chat.record.episode()
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(client.close(), CLOSING)
        return replace(episode, task=task, trajectories=(self._judged(episode.trajectories[0], session),))

    def _judged(self, trajectory: Trajectory, session: _Session) -> Trajectory:
        reward = finite(self.total(session.rewards)) if session.rewards else None
        outcome = session.wrong or "ok"
        if outcome == "ok" and reward is None:
            outcome = "error: no step was rewarded" if not session.rewards else "error: the reward is not finite"
        if self.blame and outcome != "ok" and reward is not None:
            outcome = "ok"
        info = {**trajectory.info, "steps": session.steps, "invalid": session.invalid, "over": session.done}
        return replace(trajectory, reward=reward if outcome == "ok" else None, outcome=outcome, info=info)

    async def _call(
        self, task: Task, prompt: list[dict[str, Any]], roles: Mapping[str, Seat], session: _Session
    ) -> Episode:
        """The server's tools are the policy's, until it calls none."""
        tools = [_Tool(tool, session) for tool in await session.tools()]
        box = Toolbox(tools, timeout=self.timeout, limit=self.limit)
        use = ToolUse(box, self.turns, self.tokens, single=False, role=self.role)
        return await use.play(replace(task, prompt=prompt), roles)

    async def _talk(self, chat: Chat, session: _Session) -> str:
        """Turns and steps until one is the last. Returns why there is no reward, if so."""
        make = self.act or action_of(type(session.client), self.field)
        while (said := await chat.say()) is not None:
            try:
                seen = self._text(await session.step(make, said.text))
            except _Invalid as error:
                seen = str(error)
            except TimeoutError:
                return "timeout"
            except _Failed as error:
                return f"error: {error}"
            if session.done or not chat.may_go_on() or not chat.observe([{"role": "user", "content": seen}]):
                break
        return ""

    def _made(self) -> Any:
        try:
            client = self.client()
        except ImportError:
            raise UserError("OpenEnv's clients need a package: pip install 'temper-rl[openenv]'")
        if not hasattr(client, "__aenter__"):
            raise UserError("OpenEnv's client must be the async one: leave out .sync()")
        return client

    def _text(self, observation: Any) -> str:
        text = self.show(observation) if self.show else shown(observation)
        return readable(text, self.limit)


class _Session:
    """One connection: what came back, and the rewards."""

    def __init__(self, client: Any, seconds: float):
        self.client, self.seconds = client, seconds
        self.rewards: list[float] = []
        self.steps = self.invalid = 0
        self.done = False
        self.wrong = ""  # why there is no reward
        self._one = asyncio.Lock()  # a connection takes one question at a time

    async def tools(self) -> list[Any]:
        """What the server offers to call. Raises Drop."""
        try:
            found: list[Any] = await self._within(self.client.list_tools())
        except Exception as error:
            raise Drop(f"infrastructure: {_kind(error, 'listing tools failed')}")
        if not found:  # the client answers so where it cannot ask, too
            raise Drop("infrastructure: no tools")
        return found

    async def reset(self, arguments: Mapping[str, Any]) -> Any:
        """The first observation. Raises Drop."""
        try:
            await self._within(self.client.connect())
            result = await self._within(self.client.reset(**arguments))
        except Exception as error:
            raise Drop(f"infrastructure: {_kind(error, 'reset failed')}")
        self._socket = getattr(self.client, "_ws", None)
        return result.observation

    async def step(self, make: Callable[[str], Any], text: str) -> Any:
        """The observation after an action. Raises _Invalid, _Failed, TimeoutError, and Drop: the connection is lost."""
        try:
            action = make(text)
        except (ValueError, RecursionError) as error:
            self.invalid += 1
            raise _Invalid(f"This is no action: {brief(error)}")
        self.steps += 1
        try:
            async with self._one:
                result = await self._within(self.client.step(action))
            seen, done, reward = result.observation, bool(result.done), result.reward
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            raise Drop(f"infrastructure: {_kind(error, 'step')}")
        except Exception as error:
            raise self._failed(error)
        if getattr(self.client, "_ws", None) is not self._socket:
            raise Drop("infrastructure: the connection was lost")
        self.done = done
        if reward is not None:
            self.rewards.append(value if (value := finite(reward)) is not None else float("nan"))
        return seen

    def _failed(self, error: Exception) -> Exception:
        code = match[1] if (match := re.search(r"\(code: (\w+)\)$", str(error))) else ""
        if code in REFUSED:
            self.invalid += 1
            return _Invalid(f"This is no action: {brief(error)}")
        if code == "EXECUTION_ERROR" or (not code and not type(error).__module__.startswith("websockets")):
            return _Failed(brief(error))
        return Drop(f"infrastructure: {code or type(error).__name__}")

    async def _within(self, work: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(self.seconds):
            return await work


class _Tool:
    """A tool of the server: a call is a step."""

    cacheable, own_deadline = False, True

    def __init__(self, tool: Any, session: _Session):
        self.name, self.description, self.parameters = tool.name, tool.description, tool.input_schema
        self._session = session

    async def __call__(self, **arguments: Any) -> Result:
        from openenv.core.env_server.mcp_types import CallToolAction

        if self._session.done or self._session.wrong:
            return Result("The episode is over.", "refused")
        try:
            call = CallToolAction(tool_name=self.name, arguments=arguments)
            seen = await self._session.step(lambda _: call, "")
        except Drop as drop:
            raise Fault(drop.reason)
        except _Invalid as error:
            return Result(str(error), "tool error")
        except (TimeoutError, _Failed) as error:
            self._session.wrong = "timeout" if isinstance(error, TimeoutError) else f"error: {error}"
            return Result("The environment does not answer.", "timeout")
        return returned(seen)


def returned(seen: Any) -> Result:
    """What a call gave: the server wraps a result as MCP does."""
    if error := getattr(seen, "error", None):
        return Result(str(getattr(error, "message", error)), "tool error")
    found = getattr(seen, "result", seen)
    if not isinstance(found, Mapping) or "content" not in found:
        return Result(shown(found))
    texts = [str(c.get("text", c)) if isinstance(c, Mapping) else str(c) for c in found["content"] or []]
    return Result("\n".join(texts), "tool error" if found.get("is_error") else "ok")


def action_of(client: type, field: str = "") -> Callable[[str], Any]:
    """How a client's action is made of what follows the thinking: one field, or a JSON object of its fields."""
    action = next((a for base in getattr(client, "__orig_bases__", ()) for a in get_args(base)[:1]), dict)
    fields: Mapping[str, Any] = getattr(action, "model_fields", {})
    needed = [name for name, f in fields.items() if f.is_required()]
    texts = [name for name in needed if fields[name].annotation is str]
    field = field or (texts[0] if len(needed) == len(texts) == 1 else "")
    if not fields and not field:
        raise UserError(f"{client.__name__} takes any action: say which field gets the policy's text")
    make = getattr(action, "model_validate", dict)

    def act(text: str) -> Any:
        answer = text.rpartition("</think>")[2].strip()
        given = {field: answer} if field else json.loads(answer)
        if not isinstance(given, dict):
            raise ValueError(f"it must be a JSON object with {', '.join(needed)}")
        if nested(given):
            raise ValueError("it is nested too deeply")
        return make(given)

    return act


def shown(observation: Any) -> str:
    """The one text of an observation, or JSON of what it has, without reward, done and metadata."""
    if isinstance(observation, str):
        return observation
    dump = getattr(observation, "model_dump", None)
    found = dump(mode="json") if dump else observation
    if not isinstance(found, Mapping):
        return str(observation)
    rest = {k: v for k, v in found.items() if k not in HIDDEN and v not in (None, "", [], {})}
    if not rest:
        return ""
    if len(rest) == 1 and isinstance(only := next(iter(rest.values())), str):
        return only
    return json.dumps(rest, ensure_ascii=False, default=str)


def _prompt(task: Task) -> str:
    return "\n\n".join(str(m.get("content") or "") for m in task.messages)


def _kind(error: Exception, what: str) -> str:
    return f"{what} timeout" if isinstance(error, TimeoutError) else f"{what} ({brief(error)})"
