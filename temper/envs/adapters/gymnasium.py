"""Environments of Gymnasium whose actions can be written and whose observations can be read as text.

    env = Gymnasium("FrozenLake-v1", {"is_slippery": False}, names=("left", "down", "right", "up"))
    tasks = gym_tasks("FrozenLake-v1", 1000, "Walk to the goal.")            # attempts at one task reset with one seed

`pip install 'temper-rl[gymnasium]'`, and the package of the environment. Each turn of the policy is one action; rewards
are those of `step`, on the turns, and their sum is the trajectory's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from temper import streams
from temper.columns import REWARD, TURN_REWARD
from temper.envs.adapters.spaces import reader, shower
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.foreign.beside import Late, Worker, brief, finite
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import cut

FROZEN_LAKE = "FrozenLake-v1"


def gym_tasks(id: str, n: int = 1000, prompt: str = "", first: int = 0) -> list[Task]:
    """The seeds `first` to `first + n - 1` of an environment's reset; `prompt` stands before the first observation."""
    return [Task(f"{id}/{k}", prompt, source=id, info={"seed": k}) for k in range(first, first + n)]


@dataclass
class Gymnasium:
    """One policy in `gymnasium.make(id, **options)`, judged by its rewards.

    names       of the actions of a Discrete space, in their order (without: their numbers)
    show        (observation, info) → text (default: by the observation space); ansi: what `render` draws, instead
    read        the policy's text → an action, ValueError for none (default: by the action space)
    turns       most turns that the policy takes; tokens: most that it samples in all (0: no limit)
    fresh       a fresh context for each turn, with the prompt and the last observation (else all of them)
    unreadable  a turn without an action ends the attempt, or the policy is told which there are; cost: what it takes
                from the reward
    seconds     for making, resetting and each step; limit: characters of an observation that the policy sees

    What cannot be begun is dropped. A step that raises, ends too late or gives no finite reward leaves the attempt
    without a reward, and its outcome says why: with actions that are in the space, it is not the policy's doing.
    """

    id: str = FROZEN_LAKE
    options: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    show: Callable[[Any, Mapping[str, Any]], str] | None = None
    read: Callable[[str], Any] | None = None
    ansi: bool = False
    turns: int = 100
    tokens: int = 0
    fresh: bool = False
    unreadable: Literal["told", "ends"] = "told"
    cost: float = 0.0
    seconds: float = 10.0
    limit: int = 4000
    role: str = "solver"
    writes = (REWARD, TURN_REWARD)

    def __post_init__(self) -> None:
        if self.turns < 1 or self.seconds <= 0 or self.limit < 1:
            raise UserError("turns, seconds and limit of a Gymnasium environment must be positive")
        self._idle: list[_Table] = []

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        chat = Chat(roles[self.role], Recorder(task), turns=self.turns, tokens=self.tokens)
        table = self._idle.pop() if self._idle else _Table(self)
        try:
            seen = await table.reset(int(task.info.get("seed", streams.key(0, "gymnasium", task.id) % 2**31)))
            chat.start(_said(task, seen))
            outcome = await self._walk(chat, table, task)
        finally:
            self._leave(table)
        info = {"end": table.end or chat.finish or outcome, "steps": table.steps, "unreadable": table.unreadable}
        chat.judge(table.total if outcome == "ok" else None, outcome=outcome, info=info)
        return chat.record.episode()

    async def aclose(self) -> None:
        """Close the environments."""
        while self._idle:
            await self._idle.pop().close()

    async def _walk(self, chat: Chat, table: _Table, task: Task) -> str:
        """Turns until the last; "ok", or why there is no reward."""
        while (said := await chat.say()) is not None:
            try:
                seen, reward = await table.step(said.text)
            except _Failed as error:
                return str(error)
            chat.record.score(chat.members[-1], reward)
            table.total += reward
            if table.end or not chat.may_go_on() or not self._shown(chat, task, seen):
                break
        return "ok"

    def _shown(self, chat: Chat, task: Task, seen: str) -> bool:
        return chat.start(_said(task, seen)) if self.fresh else chat.observe([{"role": "user", "content": seen}])

    def _leave(self, table: _Table) -> None:
        """Keep it for another attempt, unless somebody else's code still runs in it."""
        if table.worker.broken or table.broken:
            table.worker.close()
        else:
            self._idle.append(table)


class _Failed(Exception):
    """The environment is to blame."""


class _Table:
    """One environment in a thread of its own, used for one attempt after another."""

    def __init__(self, env: Gymnasium):
        self.env, self.worker, self.broken = env, Worker("gymnasium"), False
        self._made: Any = None
        self._last = ""

    async def reset(self, seed: int) -> str:
        """The first observation. Raises Drop; UserError when there is no such environment, or none for text."""
        self.total, self.steps, self.unreadable, self.end = 0.0, 0, 0, ""
        try:
            if self._made is None:
                await self.worker.call(self._make, self.env.seconds)
            self._last = await self.worker.call(lambda: self._reset(seed), self.env.seconds)
        except UserError:
            raise
        except (Late, Exception) as error:
            self.broken = True
            raise Drop(f"infrastructure: reset: {brief(error)}") from None
        return self._last

    async def step(self, text: str) -> tuple[str, float]:
        """(what the policy sees next, its reward). Raises _Failed."""
        try:
            action = self._read(text)
        except ValueError as error:
            self.unreadable += 1
            self.end = "unreadable" if self.env.unreadable == "ends" else ""
            again = f"\n{self._last}" if self.env.fresh else ""
            return f"{error}{again}", -self.env.cost
        self.steps += 1
        try:
            self._last, reward = await self.worker.call(lambda: self._step(action), self.env.seconds)
        except Late:
            raise _Failed("timeout") from None
        except Exception as error:
            self.broken = True
            raise _Failed(f"error: {brief(error)}") from None
        return self._last, reward

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self.worker.call(self._made.close, self.env.seconds)
        self.worker.close()

    def _make(self) -> None:
        gymnasium, env = _package(), self.env
        try:
            made = gymnasium.make(env.id, **({"render_mode": "ansi"} if env.ansi else {}), **env.options)
        except (gymnasium.error.Error, TypeError, ImportError) as error:
            raise UserError(f"Gymnasium cannot make {env.id!r}: {brief(error)}") from None
        self._space = made.action_space
        self._reader = env.read or reader(made.action_space, env.names)
        drawn: Callable[[Any, Any], str] = lambda observation, info: plain(made.render())  # noqa: E731
        self._show = env.show or (drawn if env.ansi else shower(made.observation_space))
        self._made = made

    def _reset(self, seed: int) -> str:
        return self._text(*self._made.reset(seed=seed))

    def _step(self, action: Any) -> tuple[str, float]:
        observation, given, terminated, truncated, info = self._made.step(action)
        reward = finite(given)
        if reward is None:
            raise ValueError(f"the reward is {given!r:.40}")
        self.end = "terminated" if terminated else "truncated" if truncated else ""
        return self._text(observation, info), reward

    def _text(self, observation: Any, info: Any) -> str:
        return cut(str(self._show(observation, info)).encode("utf-8", "replace").decode(), self.env.limit)

    def _read(self, text: str) -> Any:
        try:
            action = self._reader(text)
            if not self._space.contains(action):
                raise ValueError(f"{action!r:.80} is not possible here.")
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"That cannot be read: {brief(error)}") from None
        return action


def plain(drawn: Any) -> str:
    """A drawing for terminals as text: what is highlighted stands in brackets."""
    return re.sub(r"\x1b\[[\d;]*m(.*?)\x1b\[0m", r"[\1]", str(drawn))


def _said(task: Task, seen: str) -> list[dict[str, Any]]:
    *before, last = task.messages
    text = "\n".join(filter(None, (str(last["content"]), seen)))
    return [*before, {**last, "content": text}]


def _package() -> Any:
    try:
        import gymnasium
    except ImportError:
        raise UserError("Gymnasium's environments need a package: pip install 'temper-rl[gymnasium]'") from None
    return gymnasium
