"""Games whose allowed actions are known: the policy chooses among them, and its probabilities are over them alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol

from temper.columns import REWARD
from temper.envs.tree import unfinished
from temper.episode import ENV, Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.tasks.task import Task

State = Any


class Game(Protocol):
    """States and actions of a directed graph without cycles."""

    def start(self, task: Task) -> State: ...

    def actions(self, task: Task, state: State) -> Mapping[str, State]:
        """{what the policy writes: the state after it}; empty where the game is over."""
        ...

    def parents(self, task: Task, state: State) -> int:
        """How many (state, action) lead to a state that is not the start."""
        ...

    def reward(self, task: Task, state: State) -> float:
        """Of a state in which the game is over: 1 where the goal is reached, else less, and never below 0."""
        ...


@dataclass(frozen=True)
class Climb:
    """Add 1 … `info["part"]` at a time and reach `info["goal"]` in at most `info["most"]` additions.

    A state is (total, additions so far); the game is over at the goal, beyond it, or after the last addition. Missed,
    the reward is a tenth of how near the total is: 0.1·max(0, 1 − |goal − total|/goal).
    """

    def start(self, task: Task) -> State:
        return (0, 0)

    def actions(self, task: Task, state: State) -> Mapping[str, State]:
        goal, part, most = _rules(task)
        total, steps = state
        if total >= goal or steps >= most:
            return {}
        return {str(k): (total + k, steps + 1) for k in range(1, part + 1)}

    def parents(self, task: Task, state: State) -> int:
        goal, part, _ = _rules(task)
        total, steps = state
        before = (total - k for k in range(1, part + 1))
        return sum(steps - 1 <= t <= part * (steps - 1) and t < goal for t in before)

    def reward(self, task: Task, state: State) -> float:
        goal, _, _ = _rules(task)
        return 1.0 if state[0] == goal else 0.1 * max(0.0, 1 - abs(goal - state[0]) / goal)


def _rules(task: Task) -> tuple[int, int, int]:
    return int(task.info.get("goal", 4)), int(task.info.get("part", 2)), int(task.info.get("most", 3))


def climbs(parts: Sequence[int] = (2, 3), goals: Sequence[int] = (4, 5, 6, 7)) -> list[Task]:
    """Games of `Climb` with at most goal − 1 additions, at most 5."""
    return [
        Task(
            f"climb/{goal}/{part}", f"Reach {goal}: add 1 to {part} at a time, at most {min(goal - 1, 5)} times.",
            source="climb", info={"goal": goal, "part": part, "most": min(goal - 1, 5)},
        )
        for goal in goals for part in parts
    ]  # fmt: skip


@dataclass
class Flow:
    """One play of a game, all of its actions in one answer; it judges itself.

    An action is written token by token; each is sampled from the tokens with which an allowed action goes on, so that
    log-probs are over the allowed actions, and a token without an alternative is the environment's. (With actions of
    one token that is the softmax over the actions.) Info: "path", "terminal", and "log_backward", Σ −log(parents).
    """

    game: Game = field(default_factory=Climb)
    role: str = "solver"
    writes = (REWARD,)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        return await self.walk(task, roles[self.role])

    async def walk(
        self, task: Task, seat: Seat, script: Sequence[str] = (), epsilon: float = 0.0, rng: Random | None = None,
        **sampling: Any,
    ) -> Episode:  # fmt: skip
        """A play that begins with the actions of `script`; later ones are uniform with probability `epsilon`.

        With `rng` it is nobody's sample: no token has a log-prob. sampling: overrides of the seat's (temperature).
        """
        record, state, path, back = Recorder(task), self.game.start(task), list[str](), 0.0
        record.add(seat.chat(task.messages), text=str(task.messages[-1].get("content") or ""))
        while options := self.game.actions(task, state):
            given = script[len(path)] if len(path) < len(script) else None
            if given is None and rng is not None and rng.random() < epsilon:
                given = rng.choice(sorted(options))
            path.append(await self._act(record, seat, list(options), given, rng is not None or bool(script), sampling))
            state = options[path[-1]]
            back -= math.log(self.game.parents(task, state))
        ended(record)
        info = {"path": " ".join(path), "terminal": str(state), "log_backward": back}
        turns = range(len(record.turns))
        record.judge(turns, role=self.role, reward=float(self.game.reward(task, state)), info=info)
        return record.episode()

    async def _act(
        self, record: Recorder, seat: Seat, actions: list[str], given: str | None, bare: bool, sampling: dict[str, Any]
    ) -> str:
        """Write one action, `given` or the policy's; bare: without log-probs."""
        coded = {tuple(seat.tokenizer.encode(a, add_special_tokens=False)): a for a in actions}
        said: tuple[int, ...] = ()
        while said not in coded:
            allowed = tuple(sorted({c[len(said)] for c in coded if c[: len(said)] == said}))
            last = len(record.turns) - 1
            if len(allowed) == 1:
                record.add(allowed, last, text=seat.tokenizer.decode(allowed))
            elif given is not None:
                token = next(c for c, a in coded.items() if a == given)[len(said)]
                record.add((token,), last, author=self.role, text=seat.tokenizer.decode((token,)))
            else:
                ids = record.context(last)
                params = {"max_tokens": 1, "allowed": allowed, "continued": True, **sampling}
                unfinished(record, record.sampled(await seat.sample(ids, **params), last, author=self.role))
            if bare and len(allowed) > 1:
                record.turns[-1] = bared(replace(record.turns[-1], allowed=allowed))
            said += record.turns[-1].ids
        if any(c[: len(said)] == said and c != said for c in coded):
            raise UserError(f"action {coded[said]!r} is the beginning of another: end each with a space or a new line")
        return coded[said]


def ended(record: Recorder) -> None:
    """Note that the answer ended by itself, with the last token that was chosen."""
    chosen = [u for u, t in enumerate(record.turns) if t.author != ENV]
    for u in chosen[-1:]:
        record.turns[u] = replace(record.turns[u], finish="stop")


def bared(turn: Any) -> Any:
    """A turn as nobody's sample: without log-probs and version, at temperature 1."""
    return replace(turn, logp=None, version=-1, versions=None, support=None, temperature=1.0)


def paths(game: Game, task: Task) -> Iterator[tuple[tuple[str, ...], State]]:
    """Every way through the game: (actions, the state in which it is over)."""
    waiting: list[tuple[tuple[str, ...], State]] = [((), game.start(task))]
    while waiting:
        path, state = waiting.pop()
        options = game.actions(task, state)
        if not options:
            yield path, state
        waiting += [((*path, a), after) for a, after in reversed(list(options.items()))]
