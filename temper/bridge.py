"""The one bridge between the two forms: episodes (records) and a batch (columns), there and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate, chain
from typing import Any

import torch

from temper.carrier import Batch, Structure
from temper.columns import (
    ALLOWED,
    AUTHOR,
    EPISODE,
    FINISH,
    GROUP_KEY,
    INFO,
    LOGP,
    OUTCOME,
    REQUEST,
    REWARD,
    ROLE,
    SPLIT,
    SUPPORT,
    TASK,
    TEMPERATURE,
    TRAJECTORY,
    TURN_REWARD,
    TURN_TEXT,
    VERSION,
    VERSIONS,
    Column,
)  # fmt: skip
from temper.episode import ENV, Episode, Trajectory, Turn

BEHAVIOUR = LOGP.of("behaviour")


def to_batch(episodes: list[Episode]) -> Batch:
    """Episodes of one request share identical ENV turns (a prompt is stored once).

    Groups are request x role x what `Trajectory.group` says.
    """
    return _Builder().add(episodes).batch()


def to_episodes(b: Batch) -> list[Episode]:
    """The plays again, each with its turns and trajectories: for stages that edit what was rolled out.

    Behaviour log-probs, rewards and their parts go along; other columns are derived again after editing. It is no
    reading of columns that a stage would have to declare.
    """
    b = Batch(b.structure, b._columns)
    plays = b.by([(b[REQUEST][g], n) for g, n in zip(b.structure.group.tolist(), b[EPISODE].tolist())], TRAJECTORY)
    played: list[list[int]] = [[] for _ in plays.keys]
    for j, k in enumerate(plays.index.tolist()):
        played[k].append(j)
    records = _Records(b)
    return [records.episode(request, trajectories) for (request, _), trajectories in zip(plays.keys, played)]


class _Records:
    """The rows of a batch as records again."""

    def __init__(self, b: Batch):
        s = b.structure
        self.b, self.paths, self.parent, self.group = b, s.paths, s.parent.tolist(), s.group.tolist()
        self.start, self.ids, self.sampled = s.start.tolist(), s.ids.tolist(), s.sampled.tolist()
        self.first = list(accumulate((n if k else 0 for n, k in zip(s.start.diff().tolist(), self.sampled)), initial=0))
        self.logp = b[BEHAVIOUR].tolist() if BEHAVIOUR in b else None
        self.version, self.temperature = b[VERSION].tolist(), b[TEMPERATURE].tolist()
        self.parts = {c.name[7:]: b[c].tolist() for c in b.columns if c.name.startswith("reward@")}
        self.reward, self.turn_reward = (b[c].tolist() if c in b else None for c in (REWARD, TURN_REWARD))
        self.versions = b[VERSIONS] if VERSIONS in b else [None] * len(self.parent)

    def episode(self, request: str, trajectories: list[int]) -> Episode:
        """One play: its trajectories, their turns and what these had in context, numbered anew."""
        judged = {u for j in trajectories for u in self.paths[j]}
        needed: set[int] = set()
        for u in judged:
            while u >= 0 and u not in needed:
                needed.add(u)
                u = self.parent[u]
        new = {u: n for n, u in enumerate(sorted(needed))} | {-1: -1}
        group = min(self.group[j] for j in trajectories)
        turns = tuple(self._turn(u, new[self.parent[u]], u in judged) for u in sorted(needed))
        made = tuple(self._trajectory(j, tuple(new[u] for u in self.paths[j])) for j in trajectories)
        return Episode(self.b[TASK][group], turns, made, request, self.b[SPLIT][group])

    def _turn(self, u: int, parent: int, judged: bool) -> Turn:
        b, ids, logp = self.b, tuple(self.ids[self.start[u] : self.start[u + 1]]), None
        if judged and self.sampled[u] and self.logp is not None:
            values = self.logp[self.first[u] : self.first[u] + len(ids)]
            logp = None if any(v != v for v in values) else tuple(values)
        return Turn(
            ids, parent, b[AUTHOR][u], b[TURN_TEXT][u], logp, b[FINISH][u], self.version[u], self.temperature[u],
            b[SUPPORT][u], b[ALLOWED][u], _given(self.turn_reward, u), self.versions[u],
        )  # fmt: skip

    def _trajectory(self, j: int, turns: tuple[int, ...]) -> Trajectory:
        b, parts = self.b, {name: values[j] for name, values in self.parts.items()}
        return Trajectory(
            turns, b[ROLE][j], _given(self.reward, j), {n: v for n, v in parts.items() if v == v},
            b[OUTCOME][j], b[INFO][j], b[GROUP_KEY][self.group[j]],
        )  # fmt: skip


def _given(values: list[float] | None, row: int) -> float | None:
    return None if values is None or values[row] != values[row] else values[row]


class _Builder:
    """Collects episodes into tables; identical ENV turns under one parent and request become one row."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.parents: list[int] = []
        self.trajectories: list[Trajectory] = []
        self.pairs: list[tuple[int, int]] = []
        self.owner: list[int] = []
        self.plays: Counter[str] = Counter()
        self.play: list[int] = []  # of each trajectory
        self.group_row: dict[tuple[str, str, str], int] = {}
        self.first: list[Episode] = []  # of each group: what its TASK, REQUEST and SPLIT are read from
        self.shared: dict[Any, int] = {}

    def add(self, episodes: list[Episode]) -> _Builder:
        for e in episodes:
            rows: list[int] = []
            for t in e.turns:
                parent = rows[t.parent] if t.parent >= 0 else -1
                rows.append(self._turn(t, parent, e.request))
            for j in e.trajectories:
                self.owner.append(self.group_row.setdefault((e.request, j.role, j.group), len(self.group_row)))
                self.play.append(self.plays[e.request])
                if len(self.first) < len(self.group_row):
                    self.first.append(e)
                self.pairs += [(rows[u], len(self.trajectories)) for u in j.turns]
                self.trajectories.append(j)
            self.plays[e.request] += 1
        return self

    def _turn(self, t: Turn, parent: int, request: str) -> int:
        key = (request, parent, t.ids)
        if t.author == ENV and key in self.shared:
            return self.shared[key]
        self.turns.append(t)
        self.parents.append(parent)
        if t.author == ENV:
            self.shared[key] = len(self.turns) - 1
        return len(self.turns) - 1

    def batch(self) -> Batch:
        judged = {u for u, _ in self.pairs}
        taken = [t.author != ENV and u in judged for u, t in enumerate(self.turns)]
        lengths = torch.tensor([len(t.ids) for t in self.turns], dtype=torch.int64)
        structure = Structure(
            ids=torch.tensor(list(chain.from_iterable(t.ids for t in self.turns)), dtype=torch.int64),
            start=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            parent=torch.tensor(self.parents, dtype=torch.int64),
            sampled=torch.tensor(taken, dtype=torch.bool),
            member=torch.tensor(self.pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous(),
            group=torch.tensor(self.owner, dtype=torch.int64),
            groups=len(self.first),
        )
        turn = {
            AUTHOR: [t.author for t in self.turns],
            FINISH: [t.finish for t in self.turns],
            VERSION: torch.tensor([t.version for t in self.turns], dtype=torch.int64),
            TEMPERATURE: _floats(t.temperature for t in self.turns),
            TURN_TEXT: [t.text for t in self.turns],
            SUPPORT: [t.support for t in self.turns],
            ALLOWED: [t.allowed for t in self.turns],
        }
        j = self.trajectories
        trajectory: dict[Column, Any] = {
            ROLE: [t.role for t in j],
            OUTCOME: [t.outcome for t in j],
            INFO: [t.info for t in j],
            EPISODE: torch.tensor(self.play, dtype=torch.int64),
        }
        e = self.first
        group = {TASK: [x.task for x in e], REQUEST: [x.request for x in e], SPLIT: [x.split for x in e]}
        group[GROUP_KEY] = [key for _, _, key in self.group_row]
        rows = [t for t, kept in zip(self.turns, taken) if kept]
        more: dict[Column, Any] = {}
        if any(t.logp is not None for t in rows):
            logp = [v for t in rows for v in (t.logp if t.logp is not None else [torch.nan] * len(t.ids))]
            more[BEHAVIOUR] = _floats(logp)
        if any(t.reward is not None for t in j):
            more[REWARD] = _floats(torch.nan if t.reward is None else t.reward for t in j)
        if any(t.reward is not None for t in self.turns):
            more[TURN_REWARD] = _floats(torch.nan if t.reward is None else t.reward for t in self.turns)
        if any(t.versions is not None for t in self.turns):
            more[VERSIONS] = [t.versions for t in self.turns]
        for name in dict.fromkeys(n for t in j for n in t.rewards):
            more[REWARD.of(name)] = _floats(t.rewards.get(name, torch.nan) for t in j)
        return Batch(structure).put_all({**turn, **trajectory, **group, **more})


def _floats(values: Iterable[float]) -> torch.Tensor:
    """float32 [rows], also where every value is a whole number."""
    return torch.tensor(list(values), dtype=torch.float32)


def token_versions(b: Batch) -> torch.Tensor:
    """[tokens] int64: the version of the weights that sampled each token; -1 = nobody's."""
    s = b.structure
    each: torch.Tensor = b[VERSION][s.token_turn].clone()
    if VERSIONS not in b:
        return each
    for u, versions in enumerate(b[VERSIONS]):
        if versions is not None and s.sampled[u]:
            each[s.token_turn == u] = torch.tensor(versions)
    return each
