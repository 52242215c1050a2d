"""Judging: reward functions over a batch, in processes that can be killed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import (
    AUTHOR,
    GROUP_KEY,
    INFO,
    OUTCOME,
    REWARD,
    ROLE,
    SPLIT,
    TASK,
    TRAJECTORY,
    TURN_TEXT,
    VERSION,
    Column,
)
from temper.episode import ENV
from temper.errors import UserError
from temper.rewards.load import Reward
from temper.rewards.pool import Pool
from temper.rewards.signatures import Row
from temper.rewards.verdict import Verdict
from temper.rewards.worker import Call
from temper.tasks.task import Task

Judged = list[dict[int, Verdict]]  # per function: trajectory -> verdict


@dataclass
class Rewards:
    """Writes REWARD: the weighted sum of what `functions` say, and each part as REWARD.of(name).

    functions  plain functions, TRL's, verl's, or `reward_from(…)`; with none, what the environment gave must be there
    weights    one a function (default 1). A part that is not applicable (None) is left out; when all are, so is the sum
    timeout    seconds of one call; workers: processes
    extras     names of further numbers that functions return and that become columns REWARD.of(name)
    roles      whose trajectories are judged (None: all); the others, and those of side groups (`Trajectory.group`)
               that the environment has judged, keep the reward that they have
    give_up    after so many failed judgements in a row (or a whole batch of groups) raise UserError; 0: never

    A call that times out, crashes, raises or returns no number leaves NaN and says why in OUTCOME; trajectories that
    the environment itself reports as failed are not judged.
    """

    functions: Sequence[Callable[..., Any] | Reward] = ()
    weights: Sequence[float] | None = None
    timeout: float = 10.0
    workers: int = 1
    extras: Sequence[str] = ()
    roles: tuple[str, ...] | None = None
    give_up: int = 64
    kind: str = field(default="reward", init=False, repr=False)

    def __post_init__(self) -> None:
        self._rewards = _named([f if isinstance(f, Reward) else Reward(f) for f in self.functions])
        self._weights = [1.0] * len(self._rewards) if self.weights is None else [float(w) for w in self.weights]
        if len(self._weights) != len(self._rewards):
            raise UserError(f"{len(self._weights)} reward weights for {len(self._rewards)} functions")
        if not all(map(math.isfinite, self._weights)):
            raise UserError(f"reward weights must be finite numbers, got {', '.join(map(str, self._weights))}")
        self.pool = Pool([r.reference for r in self._rewards], self.timeout, self.workers)
        self._failed = 0
        self._tallies = Tally(), Tally()  # of training, of evaluation

    @property
    def reads(self) -> tuple[Column, ...]:
        if not self._rewards:
            return (REWARD,)
        step = (VERSION,) if any("trainer_state" in r.signature.takes for r in self._rewards) else ()
        return (TASK, SPLIT, INFO, AUTHOR, TURN_TEXT, ROLE, OUTCOME, GROUP_KEY, *step)

    @property
    def uses(self) -> tuple[Column, ...]:
        return (REWARD,) if self._rewards else ()

    @property
    def writes(self) -> tuple[Column, ...]:
        if not self._rewards:
            return ()
        return (REWARD, *(REWARD.of(n) for n in self._names), OUTCOME)

    @property
    def decided_by(self) -> tuple[Column, ...]:
        """What each function says, in order: the first that applies says what passes."""
        return tuple(REWARD.of(r.name) for r in self._rewards)

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys([*(r.name for r in self._rewards), *self.extras]))

    @property
    def metrics(self) -> dict[str, float]:
        """Since they were last looked at: rewards/<fn>/mean and std, rewards/outcome/<why> as shares of judgements.

        Of training; of evaluations only where nothing was trained on in between.
        """
        (training, evaluation), self._tallies = self._tallies, (Tally(), Tally())
        return (training if training.outcomes else evaluation).metrics()

    def check(self, tasks: Iterable[Task]) -> None:
        """Before training: UserError when a task lacks an argument that a function requires."""
        for task in tasks:
            for reward in self._rewards:
                reward.signature.check([task])

    async def __call__(self, b: Batch) -> Batch:
        if not self._rewards:
            return b
        n = b.size(TRAJECTORY)
        mine = self._mine(b)
        judged = await self._judge(b, [i for i in range(n) if mine[i] and b[OUTCOME][i] == "ok"])
        outcomes = list(b[OUTCOME])
        tally = self._tallies[b[SPLIT][0] != "train"] if n else Tally()
        for verdicts, reward in zip(judged, self._rewards):
            tally.add(reward.name, verdicts.values())
            for i, v in verdicts.items():
                if v.outcome != "ok" and outcomes[i] == "ok":
                    outcomes[i] = _blamed(v.outcome, reward.name)
        self._watch(judged, b.structure.groups)
        given = b[REWARD] if REWARD in b else torch.full((n,), math.nan)
        total = torch.where(torch.tensor(mine), _total(judged, self._weights, outcomes), given)
        b = b.put(REWARD, total).put(OUTCOME, outcomes)
        for name in self._names:
            b = b.put(REWARD.of(name), _part(name, judged, self._rewards, n))
        return b

    def _mine(self, b: Batch) -> list[bool]:
        """[trajectories] whether it is judged here."""
        given = (~b[REWARD].isnan()).tolist() if REWARD in b else [False] * b.size(TRAJECTORY)
        aside = [key != "" for key in b[GROUP_KEY]]
        roles = self.roles or set(b[ROLE])
        return [
            role in roles and not (aside[g] and has)
            for role, g, has in zip(b[ROLE], b.structure.group.tolist(), given, strict=True)
        ]

    async def _judge(self, b: Batch, alive: Sequence[int]) -> Judged:
        rows = rows_of(b, VERSION in self.reads)
        calls: list[Call] = []
        owners: list[list[int]] = []
        for k, reward in enumerate(self._rewards):
            for members in _calls(alive, b.structure.group.tolist()) if reward.signature.many else [[i] for i in alive]:
                arguments = reward.signature.arguments([rows[i] for i in members])
                calls.append(Call(0, k, arguments, len(members), reward.signature.many))
                owners.append(members)
        judged: Judged = [{} for _ in self._rewards]
        for call, members, verdicts in zip(calls, owners, await self.pool.run(calls)):
            judged[call.function] |= dict(zip(members, verdicts))
        return judged

    def _watch(self, judged: Judged, groups: int) -> None:
        """Training on nothing is the user's error to mend."""
        verdicts = [v for part in judged for v in part.values()]
        failed = [v for v in verdicts if v.outcome != "ok"]
        self._failed = self._failed + len(failed) if len(failed) == len(verdicts) else 0
        hopeless = self._failed >= self.give_up or (groups > 1 and len(failed) == len(verdicts) > 0)
        if self.give_up and hopeless:
            name = next(r.name for r, part in zip(self._rewards, judged) if failed[0] in part.values())
            raise UserError(
                f"reward {name!r} failed on every one of the last {self._failed} judgements: {failed[0].outcome}"
            )

    def close(self) -> None:
        """Kill the workers (a later call starts new ones)."""
        self.pool.close()


@dataclass
class Tally:
    """What the functions said, summed for the metrics."""

    values: dict[str, list[float]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, verdicts: Iterable[Verdict]) -> None:
        kept = self.values.setdefault(name, [])
        for v in verdicts:
            if not math.isnan(v.value):
                kept.append(v.value)
            why = "not_applicable" if v.outcome == "ok" and math.isnan(v.value) else v.outcome.partition(":")[0]
            self.outcomes[why] += 1
            for key, extra in v.extras.items():
                if not math.isnan(extra):
                    self.values.setdefault(f"{name}/{key}", []).append(extra)

    def metrics(self) -> dict[str, float]:
        out = {}
        for name, values in self.values.items():
            if values:
                x = torch.tensor(values, dtype=torch.float64)
                out[f"rewards/{name}/mean"], out[f"rewards/{name}/std"] = float(x.mean()), float(x.std(correction=0))
        total = sum(self.outcomes.values())
        return out | {f"rewards/outcome/{why}": n / total for why, n in sorted(self.outcomes.items())}


def rows_of(b: Batch, versions: bool = False) -> list[Row]:
    """Every trajectory as reward functions see it."""
    authors, texts, infos, roles, tasks = b[AUTHOR], b[TURN_TEXT], b[INFO], b[ROLE], b[TASK]
    group, start, ids = b.structure.group.tolist(), b.structure.start.tolist(), b.structure.ids
    version = b[VERSION].tolist() if versions else [0] * len(authors)
    turns: list[list[int]] = [[] for _ in roles]
    for turn, owner in b.structure.member.T.tolist():
        turns[owner].append(turn)
    rows = []
    for mine, role, info, g in zip(turns, roles, infos, group):
        sampled = [u for u in mine if authors[u] != ENV]
        after = mine[mine.index(sampled[0]) :] if sampled else []
        last = next((u for u in reversed(sampled) if authors[u] == role), sampled[-1] if sampled else None)
        rows.append(
            Row(
                task=tasks[g],
                completion="" if last is None else texts[last],
                completion_ids=[i for u in after for i in ids[start[u] : start[u + 1]].tolist()],
                said=[(authors[u] != ENV, texts[u]) for u in after],
                noted=info or {},
                version=max((version[u] for u in sampled), default=0),
            )
        )
    return rows


def _calls(alive: Sequence[int], group: Sequence[int]) -> list[list[int]]:
    """The living trajectories of each group."""
    members: dict[int, list[int]] = {}
    for i in alive:
        members.setdefault(group[i], []).append(i)
    return list(members.values())


def _total(judged: Judged, weights: Sequence[float], outcomes: Sequence[str]) -> Tensor:
    """Weighted sum over the applicable parts; NaN where there is none, or where judging failed."""
    totals = []
    for i, outcome in enumerate(outcomes):
        parts = [w * part[i].value for part, w in zip(judged, weights) if i in part and not math.isnan(part[i].value)]
        totals.append(sum(parts) if parts and outcome == "ok" else math.nan)
    return torch.tensor(totals, dtype=torch.float32)


def _part(name: str, judged: Judged, rewards: Sequence[Reward], n: int) -> Tensor:
    """[trajectories] what function `name` said, or the extra of that name."""
    values = [math.nan] * n
    for part, reward in zip(judged, rewards):
        for i, v in part.items():
            if reward.name == name:
                values[i] = v.value
            elif name in v.extras:
                values[i] = v.extras[name]
    return torch.tensor(values, dtype=torch.float32)


def _blamed(outcome: str, name: str) -> str:
    """ "timeout: …" with the function's name: "timeout: my_reward: …"."""
    kind, _, why = outcome.partition(": ")
    return f"{kind}: {name}: {why}" if why else f"{kind}: {name}"


def _named(rewards: Sequence[Reward]) -> list[Reward]:
    """UserError when two have one name."""
    for name, times in Counter(r.name for r in rewards).items():
        if times > 1:
            raise UserError(f"two rewards are called {name!r}: give one of them a name with Reward(function, name=…)")
    return list(rewards)
