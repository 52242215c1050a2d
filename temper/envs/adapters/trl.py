"""What was written for TRL's GRPOTrainer, as it is: `environment_factory`, `tools` and `reward_funcs`.

    env = Trl(IncrementEnv)                                       # the environment owns its tasks and its reward
    env = Trl(GameEnv, reward_funcs=[reward], tools=[multiply])   # reward(completions, environments, **columns) -> list
    train = env.tasks(rows)                                       # the data set's rows; without rows: env.tasks(n=1000)

No package is needed. Read with TRL 1.16 (`trl.trainer.grpo_trainer`): a text from `reset(**row)` goes behind
the last message; public methods are tools, described by their type hints and docstrings; `get_reward()` and the reward
functions are added up, and None or NaN says that one of them does not apply.

Otherwise than in TRL: a reward function sees one attempt at a time (lists of one element), with `trainer_state` None;
Python's own random numbers come from the task, so a group's attempts begin alike and a run can be repeated; a reward
function that raises ends the attempt, not the run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temper.columns import REWARD
from temper.envs.tools import ToolUse
from temper.episode import ENV, Episode, Trajectory
from temper.errors import UserError
from temper.foreign.beside import Late, brief, readable
from temper.foreign.instance import Instance, Room
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import Call, Toolbox
from temper.tools.calls import Reader, find

Factory = Callable[[], Any]
Score = tuple[str, float, float]  # name, value, weight


@dataclass
class Trl:
    """The policy talks and calls the environment's methods; a turn without a call ends the attempt.

    factory  makes an environment, or several by name: then a row's `environment` says which (None: tools alone)
    tools    functions that every attempt may call
    reward_funcs    of TRL's signature; weights: one for each (default: 1 each). get_reward counts once
    turns    most turns that the policy takes; tokens: most that it samples in all (0: no limit)
    timeout  seconds of one call of theirs; attempts: environments at once; limit: characters that the policy sees of
             what `reset` or a tool returns
    shared   leave `random` as it is: plain methods of different attempts then run at once, and nothing repeats
    format   of calls: a name or a reader of `temper.tools.calls`
    """

    factory: Factory | Mapping[str, Factory] | None = None
    tools: Sequence[Callable[..., Any]] = ()
    reward_funcs: Sequence[Callable[..., Any]] = ()
    weights: Sequence[float] | None = None
    turns: int = 8
    tokens: int = 0
    timeout: float = 30.0
    attempts: int = 64
    limit: int = 20_000
    shared: bool = False
    format: str | Reader = "hermes"
    role: str = "solver"
    writes = (REWARD,)

    def __post_init__(self) -> None:
        named = isinstance(self.factory, Mapping)
        self._factories: dict[str | None, Any] = dict(self.factory) if named else {None: self.factory}  # type: ignore
        if wrong := [n for n, f in self._factories.items() if f is not None and not callable(f)]:
            raise UserError(f"the environment {wrong[0] or ''!r} must be a class, or a function without arguments")
        self._weights = list(self.weights or [1.0] * len(self.reward_funcs))
        if len(self._weights) != len(self.reward_funcs):
            raise UserError(f"{len(self._weights)} weights for {len(self.reward_funcs)} reward functions")
        self._room = Room(self.attempts, self.timeout, self.shared)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def tasks(self, rows: Iterable[Mapping[str, Any]] | None = None, n: int = 1000, name: str = "trl") -> list[Task]:
        """The rows of a data set (TRL's `train_dataset`); without one, `n` tasks that `reset` makes."""
        found = [dict(row) for row in rows] if rows is not None else [{} for _ in range(n)]
        return [
            Task(f"{name}/{k}", row.pop("prompt", ""), source=str(row.get("environment", name)), info=row)
            for k, row in enumerate(found)
        ]

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        row = row_of(task)
        name = row.pop("environment", None) if isinstance(self.factory, Mapping) else None
        if name not in self._factories:
            known = ", ".join(map(str, self._factories))
            raise UserError(f"{task.id} wants the environment {name!r}; there are: {known}")
        async with self._room.instance(name, self._factories[name], task) as made:
            prompt = await self._begun(made, row)
            box = Toolbox([made.tool(f) for f in [*self.tools, *made.methods]], timeout=self.timeout, limit=self.limit)
            use = ToolUse(box, self.turns, self.tokens, format=self.format, single=False, role=self.role)
            episode = await use.play(replace(task, prompt=prompt), roles)
            judged = await self._judged(made, row, prompt, episode)
        return replace(episode, task=task, trajectories=(judged,))

    async def aclose(self) -> None:
        """End the environments and their threads; those that have a `close` method are asked to."""
        await self._room.aclose()

    async def _begun(self, made: Instance, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The messages that the policy sees first."""
        messages = copy.deepcopy(row.get("prompt") or [{"role": "user", "content": ""}])
        try:
            seen = await made.begin(row)
        except Late:
            raise Drop("reset timeout")
        except UserError:
            raise
        except Exception as error:
            raise Drop(f"reset failed: {brief(error)}")
        if not isinstance(seen, str | None):
            raise UserError(f"reset must return a text or None, got {type(seen).__name__}")
        messages[-1]["content"] = readable(f"{messages[-1]['content']}{seen or ''}", self.limit)
        return messages

    async def _judged(self, made: Instance, row: Mapping[str, Any], prompt: Any, episode: Episode) -> Trajectory:
        """The trajectory with its reward, or why there is none."""
        (trajectory,) = episode.trajectories
        noted: dict[str, Any] = {}
        scores: list[Score] = []
        try:
            scores = await self._scores(made, row, prompt, episode, noted)
            outcome = "ok" if scores else "error: no reward source applies"
        except Late:
            outcome = "timeout"
        except Exception as error:
            outcome = f"error: {brief(error)}"
        if bad := [name for name, value, _ in scores if math.isinf(value)]:
            outcome = f"error: {bad[0]} is infinite"
        if outcome != "ok":
            return replace(trajectory, outcome=outcome)
        total, shares = sum(v * w for _, v, w in scores), {name: v for name, v, _ in scores}
        info = {**trajectory.info, **({"noted": noted} if noted else {})}
        return replace(trajectory, reward=total, rewards=shares, info=info)

    async def _scores(
        self, made: Instance, row: Mapping[str, Any], prompt: Any, episode: Episode, noted: dict[str, Any]
    ) -> list[Score]:
        """What the reward functions and the environment itself say, of those that apply."""
        columns = {k: [v] for k, v in row.items() if k not in ("prompt", "completion", "completion_ids")}
        ids = [i for t in episode.turns[1:] for i in t.ids]
        seen = {"prompts": [prompt], "completions": [messages(episode, self.format)], "completion_ids": [ids]}
        hears = {"log_extra": lambda name, values: noted.update({str(name): str(values[0])[:200]}),
                 "log_metric": lambda name, value: noted.update({str(name): float(value)})}  # fmt: skip
        if made.object is not None:
            columns["environments"] = [made.object]
        scores: list[Score] = []
        for function, weight in zip(self.reward_funcs, self._weights):
            found = await made.run(function, **seen, **columns, **hears, trainer_state=None)
            if not isinstance(found, Sequence) or len(found) != 1:
                raise ValueError(f"{_name(function)} must return a list with one reward for each completion")
            scores.append((_name(function), _number(found[0]), weight))
        if hasattr(type(made.object), "get_reward"):
            scores.append((type(made.object).__name__, _number(await made.run(made.object.get_reward)), 1.0))
        return [s for s in scores if not math.isnan(s[1])]


def row_of(task: Task) -> dict[str, Any]:
    """The columns of a task, its prompt as messages."""
    row = dict(task.info)
    if task.prompt:
        row["prompt"] = task.messages
    if task.answer is not None:
        row["answer"] = task.answer
    return row


def messages(episode: Episode, format: str | Reader = "hermes") -> list[dict[str, Any]]:
    """What came behind the prompt, as TRL hands it to reward functions: assistant and tool messages."""
    said = [t.text for t in episode.turns if t.author != ENV]
    calls = episode.trajectories[0].info["calls"]
    out: list[dict[str, Any]] = []
    for turn, text in enumerate(said):
        found = find(text, format)
        asked = [f.call for f in found if isinstance(f.call, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if asked:
            functions = [{"name": c.name, "arguments": dict(c.arguments)} for c in asked]
            message["content"] = text[: found[0].start].strip()
            message["tool_calls"] = [{"type": "function", "function": f} for f in functions]
        out.append(message)
        if turn + 1 < len(said):
            out += [{"role": "tool", "name": c["name"], "content": c["text"]} for c in calls if c["turn"] == turn]
    return out


def _number(value: Any) -> float:
    """NaN where a source does not apply. Raises TypeError or ValueError for what is no number."""
    return math.nan if value is None else float(value)


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
