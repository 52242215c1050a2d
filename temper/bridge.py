"""The one bridge between the two forms: episodes (records) and a batch (columns), there and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
    TURN,
    TURN_REWARD,
    TURN_TEXT,
    VERSION,
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

    Behaviour log-probs, rewards and their parts go along; other columns are derived again after editing.
    """
    plays = b.by([(b[REQUEST][g], n) for g, n in zip(b.structure.group.tolist(), b[EPISODE].tolist())], TRAJECTORY)
    out = []
    for k, (request, _) in enumerate(plays.keys):
        part = b.select(plays.index == k)
        turns = tuple(_turn_of(part, u) for u in range(part.size(TURN)))
        trajectories = tuple(_trajectory_of(part, j) for j in range(part.size(TRAJECTORY)))
        out.append(Episode(part[TASK][0], turns, trajectories, request, part[SPLIT][0]))
    return out


def _turn_of(b: Batch, u: int) -> Turn:
    logp = None
    if b.structure.sampled[u] and BEHAVIOUR in b:
        values = b[BEHAVIOUR][b.structure.token_turn == u]
        logp = None if bool(values.isnan().any()) else tuple(values.tolist())
    return Turn(
        tuple(b.turn_ids(u)), int(b.structure.parent[u]), b[AUTHOR][u], b[TURN_TEXT][u], logp, b[FINISH][u],
        int(b[VERSION][u]), float(b[TEMPERATURE][u]), b[SUPPORT][u], b[ALLOWED][u], _given(b, TURN_REWARD, u),
    )  # fmt: skip


def _trajectory_of(b: Batch, j: int) -> Trajectory:
    parts = {c.name[7:]: float(b[c][j]) for c in b.columns if c.name.startswith("reward@")}
    return Trajectory(
        tuple(b.turns_of(j)), b[ROLE][j], _given(b, REWARD, j), {n: v for n, v in parts.items() if v == v},
        b[OUTCOME][j], b[INFO][j], b[GROUP_KEY][b.structure.group[j]],
    )  # fmt: skip


def _given(b: Batch, column: Column, row: int) -> float | None:
    value = float(b[column][row]) if column in b else float("nan")
    return None if value != value else value


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
            ids=torch.tensor([i for t in self.turns for i in t.ids], dtype=torch.int64),
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
        trajectory = {ROLE: [t.role for t in j], OUTCOME: [t.outcome for t in j], INFO: [t.info for t in j]}
        e = self.first
        group = {TASK: [x.task for x in e], REQUEST: [x.request for x in e], SPLIT: [x.split for x in e]}
        group[GROUP_KEY] = [key for _, _, key in self.group_row]
        batch = Batch(structure).put(EPISODE, torch.tensor(self.play, dtype=torch.int64))
        for column, values in {**turn, **trajectory, **group}.items():
            batch = batch.put(column, values)
        rows = [t for t, kept in zip(self.turns, taken) if kept]
        if any(t.logp is not None for t in rows):
            logp = [v for t in rows for v in (t.logp if t.logp is not None else [torch.nan] * len(t.ids))]
            batch = batch.put(LOGP.of("behaviour"), _floats(logp))
        if any(t.reward is not None for t in j):
            batch = batch.put(REWARD, _floats(torch.nan if t.reward is None else t.reward for t in j))
        if any(t.reward is not None for t in self.turns):
            batch = batch.put(TURN_REWARD, _floats(torch.nan if t.reward is None else t.reward for t in self.turns))
        for name in dict.fromkeys(n for t in j for n in t.rewards):
            batch = batch.put(REWARD.of(name), _floats(t.rewards.get(name, torch.nan) for t in j))
        return batch


def _floats(values: Iterable[float]) -> torch.Tensor:
    """float32 [rows], also where every value is a whole number."""
    return torch.tensor(list(values), dtype=torch.float32)
