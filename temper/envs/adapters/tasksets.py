"""Task sets of verifiers v1, as they are: `pip install 'temper-rl[verifiers]'`.

    env = Taskset("my-taskset", {"difficulty": "easy"})       # an installed package, with the fields of its config
    train = env.tasks(n=1000)

verifiers runs the episode: the task's hooks, the agent's harness, the interception of its calls, and the rewards. The
model behind it is the policy, recorded token by token. A task set whose package names no harness is played in this
process by a plain chat, which is what verifiers' own "null" harness does in a process and a package environment of its
own for each attempt; tasks with tool servers need that one (harness="null"), or another of verifiers'
harnesses. Read with verifiers 0.3.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.columns import REWARD
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.foreign.beside import Beside, Late, brief, finite, parts
from temper.foreign.door import Door
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

CHAT = "temper_chat"  # the name under which verifiers finds our harness
INFRASTRUCTURE = ("ProviderError", "SandboxError", "InterceptionError", "TunnelError", "ToolsetError")
FAILED = ("TaskError", "EnvError", "HarnessError")


@dataclass
class Taskset:
    """A task set of verifiers v1 with one agent; one episode is one trajectory, with the sum of its rewards.

    id       of an installed package
    config   fields of the task set's own config
    harness  of the agent: "" (the package's own, or a chat in this process), or a name such as "null" or "bash"
    env      further fields of verifiers' environment config, such as {"agent": {"max_turns": 4}}
    timeout  seconds of one episode, beside verifiers' own limits
    episodes how many run at once
    """

    id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    harness: str = ""
    env: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0
    episodes: int = 64
    role: str = "solver"
    writes = (REWARD,)

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.episodes < 1:
            raise UserError(f"an episode needs time and a place, got {self.timeout} s and {self.episodes} episodes")
        self._env = load(self.id, self.config, self.harness, self.env)
        self._left, self._known = iter(self._env.taskset), list[Any]()
        self._beside, self._door = Beside("taskset"), Door(self.episodes)
        self._serving: Any = None  # loop, whether it is up, what stops it, and its task
        self._keys = itertools.count()

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def tasks(self, n: int = 1000) -> list[Task]:
        """The first `n` tasks, fewer where there are no more."""
        self._load(n)
        return [
            Task(f"{self.id}/{k}", t.data.prompt_text or "", source=self.id, info={"row": k})
            for k, t in enumerate(self._known[:n])
        ]

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        if "row" not in task.info:
            raise UserError(f"{task.id} is not one of the task set's own: take them from `tasks`")
        record, row = Recorder(task), int(task.info["row"])
        self._load(row + 1)
        async with self._door.opened(roles[self.role], record) as (session, url, key):
            reward, shares, info = None, dict[str, float](), dict[str, Any]()
            try:
                episode = await self._beside.run(lambda: self._episode(self._known[row], url, key), self.timeout)
            except Late:
                outcome = "timeout"
            except Exception as error:  # whatever their code raises
                outcome = f"error: {brief(error)}"
            else:
                outcome, reward, shares, info = judged(episode, session.full)
        if not session.calls:
            raise Drop("prompt too long" if session.full else f"environment made no call: {outcome}"[:120])
        if outcome == "ok" and reward is None:
            outcome = "error: the reward is not finite"
        record.judge(
            range(len(record.turns)), role=self.role, reward=reward if outcome == "ok" else None, rewards=shares,
            outcome=outcome, info={"calls": len(session.calls), "chains": session.chains, **info},
        )  # fmt: skip
        return record.episode()

    async def aclose(self) -> None:
        """End verifiers' servers, its loop, and the door."""
        if self._serving is not None:
            with contextlib.suppress(Exception):
                await self._beside.run(self._stopped, 5.0)
        self._serving = None
        await self._beside.aclose()
        await self._door.aclose()

    def _load(self, n: int) -> None:
        self._known += itertools.islice(self._left, max(0, n - len(self._known)))

    async def _episode(self, task: Any, url: str, key: str) -> Any:
        """In verifiers' loop: one episode."""
        from verifiers.v1.clients import ModelContext
        from verifiers.v1.configs.client import EvalClientConfig

        await self._served()
        name = f"TEMPER_SESSION_{next(self._keys)}"
        os.environ[name] = key  # verifiers reads keys from the environment
        try:
            context = ModelContext(model="policy", client=EvalClientConfig(base_url=url, api_key_var=name))
            return await self._env.run_episode(task, context)
        finally:
            os.environ.pop(name, None)

    async def _served(self) -> None:
        """What verifiers shares between episodes is up; a task of its own holds it."""
        loop = asyncio.get_running_loop()
        if self._serving is None or self._serving[0] is not loop:
            up, stop = loop.create_future(), asyncio.Event()
            self._serving = loop, up, stop, loop.create_task(self._hold(up, stop))
        await asyncio.shield(self._serving[1])

    async def _hold(self, up: asyncio.Future[None], stop: asyncio.Event) -> None:
        try:
            async with self._env.serving():
                up.set_result(None)
                await stop.wait()
        except Exception as error:
            if not up.done():
                up.set_exception(error)

    async def _stopped(self) -> None:
        _, _, stop, held = self._serving
        stop.set()
        await held


def judged(episode: Any, full: bool) -> tuple[str, float | None, dict[str, float], dict[str, Any]]:
    """(outcome, reward, its parts, info) of a verifiers episode. Raises Drop where the infrastructure failed."""
    traces = list(episode.traces)
    errors = [e for e in (*(t.last_error for t in traces), episode.last_error) if e is not None]
    wrong = next((e for e in errors if e.type not in INFRASTRUCTURE or not full), None)
    if wrong is not None and wrong.type in INFRASTRUCTURE:
        raise Drop(f"infrastructure: {wrong.type}")
    if wrong is not None:
        return f"error: {wrong.type}: {wrong.message}"[:200], None, {}, {}
    rewards = {k: r.value for t in traces for k, r in t.rewards.items() if r is not None}
    metrics = {k: m for t in traces for k, m in parts(t.metrics).items()}
    stop = next((t.stop_condition for t in traces), None)
    info = {"stop": str(stop), "metrics": metrics}
    return "ok", finite(sum(t.reward for t in traces)), parts(rewards), info


def load(id: str, config: Mapping[str, Any], harness: str, env: Mapping[str, Any]) -> Any:
    """The environment of a task set; its one agent gets a harness and runs on this machine."""
    try:
        from verifiers.v1.utils.loaders import (
            default_harness_id,
            load_environment,
            resolve_env_config,
        )
    except ImportError:
        raise UserError("task sets of verifiers need a package: pip install 'temper-rl[verifiers]'")
    try:
        given = {**env, "taskset": {"id": id, **config}}
        cls = resolve_env_config(given)
        seats = [n for n, f in type(cls).model_fields.items() if type(f.default).__name__ == "AgentConfig"]
        if len(seats) != 1:
            raise UserError(f"{id} has several agents ({', '.join(seats)}); Temper plays task sets with one")
        seat = {"runtime": {"type": "subprocess"}, **dict(env.get(seats[0], {}))}
        if harness or ("harness" not in seat and default_harness_id(id) == "bash"):
            seat["harness"] = {"id": harness or _chat()}
        return load_environment(resolve_env_config({**given, seats[0]: seat}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"cannot load the task set {id!r}: {' '.join(str(error).split())[:400]}")


def _chat() -> str:
    """Make our harness known to verifiers, which finds harnesses as modules; returns its id."""
    if CHAT in sys.modules:
        return CHAT
    import httpx
    from verifiers.v1.configs.harness import HarnessConfig
    from verifiers.v1.dialects.chat import message_to_wire
    from verifiers.v1.harness import Harness
    from verifiers.v1.runtimes import ProgramResult

    class ChatConfig(HarnessConfig):
        id: str = CHAT

    class Chat(Harness[ChatConfig]):
        """The task's prompt, then one answer for each turn of the user."""

        APPENDS_SYSTEM_PROMPT = SUPPORTS_RESUME = True
        EXECUTES_CODE = NEEDS_CONTAINER = False

        async def launch(
            self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
        ) -> Any:
            system, prompt = self.resolve_prompt(data)
            said = (
                [{"role": "user", "content": prompt}] if isinstance(prompt, str) else map(message_to_wire, prompt or [])
            )
            messages = [*([{"role": "system", "content": system}] if system else []), *said]
            async with httpx.AsyncClient(trust_env=False, timeout=None, verify=False) as client:  # loopback
                answer = await client.post(
                    f"{endpoint}/chat/completions", json={"model": ctx.model, "messages": messages},
                    headers={"Authorization": f"Bearer {secret}"},
                )  # fmt: skip
            failed = answer.status_code >= 400
            return ProgramResult(int(failed), "", answer.text[-2000:] if failed else "")

    module = types.ModuleType(CHAT)
    module.Chat, module.__all__ = Chat, ["Chat"]  # type: ignore[attr-defined]
    module.__spec__ = None
    sys.modules[CHAT] = module
    return CHAT
