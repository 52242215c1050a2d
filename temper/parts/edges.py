"""Credit of the edges of a tree, and a memory of edges that are trained on as samples of their own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import Any

import torch

from temper import streams
from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import ADVANTAGE, CORE, EPISODE, REQUEST, REWARD, TOKEN, TRAJECTORY, TURN
from temper.episode import Episode, Trajectory, Turn
from temper.errors import UserError
from temper.stage import Counted


@dataclass(frozen=True)
class EdgeAdvantage:
    """A of a segment = V(where it leads) − V(where it starts); V of a leaf: its reward, else the mean over children.

    SPO-tree (Guo et al. 2025, arXiv 2505.23564). Siblings sum up to 0. A node is a sampled turn; first segments start
    at the prompt. Unjudged leaves have no value and leave the means.

    scale  divide by the standard deviation of the siblings' values (at least eps)
    """

    scale: bool = False
    eps: float = 1e-6
    reads = (REWARD,)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        a = torch.full((b.size(TURN),), torch.nan)
        value, children = values(b)
        for start, ends in children.items():
            known = [value[u] for u in ends if value[u] == value[u]]
            width = max(pstdev(known), self.eps) if self.scale and known else 1.0
            for u in ends:
                a[u] = (value[u] - value[start]) / width
        return b.put(ADVANTAGE, b.spread(a, TURN, TOKEN))


def values(b: Batch) -> tuple[dict[int, float], dict[int, list[int]]]:
    """(V, children) of every sampled turn, and of each group's prompt, whose number is −1 − group; NaN: not judged."""
    children: dict[int, list[int]] = {}
    value: dict[int, float] = {}
    rewards: dict[int, list[float]] = {}
    for j, r in enumerate(b[REWARD].tolist()):
        path = [u for u in b.turns_of(j) if bool(b.structure.sampled[u])]
        for u, v in itertools.pairwise([-1 - int(b.structure.group[j]), *path]):
            if v not in children.setdefault(u, []):
                children[u].append(v)
        if path:
            rewards.setdefault(path[-1], []).append(r)
    for u in sorted({*children, *rewards}, reverse=True):  # children have higher numbers
        below = [*rewards.get(u, []), *(value[v] for v in children.get(u, []))]
        known = [v for v in below if v == v]
        value[u] = fmean(known) if known else torch.nan
    return value, children


@dataclass
class EdgeReplay(Counted):
    """Edges with credit become samples of their own: at most `most` of a tree in a step, the others wait `age` steps.

    A tree of 6·6·6 has 258 edges, which at 32 a step last for eight. An edge is (context, segment): its context is no
    TOKEN row, its reward the value of where it leads, its version and log-probs those that it was sampled with. Edges
    are drawn at random. Where none has credit the batch stays as it is.
    """

    age: int = 8
    most: int = 32
    seed: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list, repr=False)
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (ADVANTAGE, REQUEST, REWARD, EPISODE)
    writes = ()  # ADVANTAGE goes along
    uses = (*CORE, BEHAVIOUR)

    def __post_init__(self) -> None:
        for name, least in (("age", 0), ("most", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of an edge buffer must be at least {least}, got {getattr(self, name)}")

    async def __call__(self, b: Batch) -> Batch:
        rng, self.calls = streams.generator(self.seed, "edges", self.calls), self.calls + 1
        known = [e for e in self.waiting if self.calls - e["step"] <= self.age] + self._edges(b)
        trees: dict[Any, list[int]] = {}
        for n, e in enumerate(known):
            trees.setdefault((e["step"], e["play"]["request"]), []).append(n)
        drawn = {edges[k] for edges in trees.values() for k in rng.permutation(len(edges))[: self.most].tolist()}
        out = [e for n, e in enumerate(known) if n in drawn]
        self.waiting = [e for n, e in enumerate(known) if n not in drawn]
        self.metrics = {"edges/trained": len(out), "edges/waiting": len(self.waiting)}
        if not out:
            return b
        self.metrics["edges/age"] = fmean(self.calls - e["step"] for e in out)
        made = Batch.of([Episode.from_json(e["play"]) for e in out])
        a = torch.tensor([e["advantage"] for e in out])
        return made.put(ADVANTAGE, made.spread(a, TRAJECTORY, TOKEN))

    def _edges(self, b: Batch) -> list[dict[str, Any]]:
        """Every segment of `b` with credit, once, in a group of its own."""
        credit, (value, _) = b.mean(b[ADVANTAGE], TOKEN, TURN), values(b)
        found: dict[int, dict[str, Any]] = {}
        for play, trajectories in plays(b):
            for trajectory, j in zip(play.trajectories, trajectories):
                for u, at in zip(b.turns_of(j), trajectory.turns):
                    if u not in found and bool(b.structure.sampled[u]) and bool(credit[u].abs() > 1e-6):
                        made = alone(play, trajectory.role, at, value[u], f"edge {self.calls}.{u}")
                        found[u] = {"step": self.calls, "advantage": float(credit[u]), "play": made.to_json()}
        return list(found.values())

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.waiting = state["calls"], list(state["waiting"])


def plays(b: Batch) -> list[tuple[Episode, list[int]]]:
    """Every play with the rows of its trajectories, in order."""
    rows: dict[Any, list[int]] = {}
    for j, (g, n) in enumerate(zip(b.structure.group.tolist(), b[EPISODE].tolist())):
        rows.setdefault((b[REQUEST][g], n), []).append(j)
    return list(zip(to_episodes(b), rows.values(), strict=True))


def alone(play: Episode, role: str, turn: int, reward: float, group: str) -> Episode:
    """A turn as a play of its own: what was in context is one turn of the environment."""
    mine = play.turns[turn]
    at, before = mine.parent, list[Turn]()
    while at >= 0:
        before, at = [play.turns[at], *before], play.turns[at].parent
    prompt = Turn(tuple(i for t in before for i in t.ids), text="".join(t.text for t in before))
    judged = Trajectory((0, 1), role, reward, group=group)
    return Episode(play.task, (prompt, replace(mine, parent=0)), (judged,), play.request, play.split)
