"""Credit where answers share beginnings. A node is a sampled turn; its leaves are the trajectories that go through it.

In published code a leaf is a row, so a token that n leaves share is there n times, each with its leaf's advantage, and
counts n times in a token mean. Here it is one row, computed once. `per_leaf_row` weighs it n times. The loss of one A
is its own for A > 0 and for A < 0 and linear in A on each side, so `OverLeaves` needs two numbers of each token, the
means over its leaves of the advantages above 0 and of those below; with one mean a clipped loss would be another.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TOKEN, TRAJECTORY, TURN, Column
from temper.parts.advantages import group_count, group_mean
from temper.parts.losses import Clip

ABOVE, BELOW = ADVANTAGE.of("above"), ADVANTAGE.of("below")


def judged(b: Batch, reward: Column = REWARD) -> Tensor:
    """[trajectories] 1.0 where there is a reward."""
    known: Tensor = ~b[reward].isnan()
    return known.float()


def node_size(b: Batch, r: Tensor) -> Tensor:
    """[turns] how many judged trajectories go through each turn; r [trajectories], NaN = not judged."""
    return b.spread((~r.isnan()).to(r.dtype), TRAJECTORY, TURN, how="sum").nan_to_num(nan=0.0)


def node_mean(b: Batch, r: Tensor) -> Tensor:
    """[turns] the mean of r over the judged trajectories that go through each turn: its value."""
    return b.spread(r, TRAJECTORY, TURN)


def per_leaf_row(b: Batch, live: Tensor) -> Tensor:
    """Weights n/Σn: a token counts once for each of the n judged trajectories that share it."""
    rows = live * b.spread(judged(b), TRAJECTORY, TOKEN, how="sum")
    return rows / rows.sum().clamp(min=1)


@dataclass(frozen=True)
class OverLeaves:
    """The mean of `loss` over the trajectories that share a token, exact for losses that are linear in |A| by sign."""

    loss: Any = field(default_factory=Clip)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (*self.loss.reads, ABOVE, BELOW)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        up, metrics = self.loss(b.put(ADVANTAGE, b[ABOVE]))
        down, also = self.loss(b.put(ADVANTAGE, b[BELOW]))
        return up + down, {k: v if k == "ratio" else v + also[k] for k, v in metrics.items()}


@dataclass(frozen=True)
class SubtreeAdvantage:
    """A_i = mean over the nodes above leaf i of r_i − (the mean reward of that node's leaves). Then whitened.

    TreePO (arXiv 2508.17445), as trained. The nodes: the prompt, that is the whole group, and every sampled turn of the
    path that other judged trajectories share. A group of one keeps A = r.

    weigh        "equal", or "size": each node by its number of leaves
    drop_silent  leave out nodes (not the prompt) whose leaves all have the same reward
    whiten       to mean 0 and variance 1 over every (leaf, token) of the batch
    """

    weigh: Literal["equal", "size"] = "equal"
    drop_silent: bool = False
    whiten: bool = True
    reward: Column = REWARD
    writes = (ADVANTAGE, ABOVE, BELOW)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    async def __call__(self, b: Batch) -> Batch:
        a = self.of_leaves(b)
        return credited(b, a[b.structure.member[1]], self.whiten)

    def of_leaves(self, b: Batch) -> Tensor:
        """[trajectories] A before whitening."""
        r = b[self.reward]
        turn, leaf = b.structure.member
        size, value = node_size(b, r), node_mean(b, r)
        used = b.structure.sampled & (size > 1)
        if self.drop_silent:
            used &= (node_mean(b, r.square()) - value.square()) > 1e-12
        w = torch.where(used, size if self.weigh == "size" else torch.ones_like(size), torch.zeros_like(size))[turn]
        at_root = group_count(b, r) if self.weigh == "size" else torch.ones_like(r)
        gaps = w * (r[leaf] - value[turn]).nan_to_num(nan=0.0)
        total: Tensor = at_root * (r - group_mean(b, r)) + _sum(gaps, leaf, r)
        return total / (at_root + _sum(w, leaf, r))


@dataclass(frozen=True)
class SegmentAdvantage:
    """A(node) = V(node) − η^k·V(parent), k = 1 for a path's last node and one more for each before it; V(prompt) = 0.

    TreePO's segment variant. V of a leaf is its reward against the nodes above it, r̃ = Σ n(r − mean)/Σ n over the group
    and the turns of its path with n leaves each; V of a node is the mean over its children, whatever their leaves.
    Where only the first segment decides, A is 0 on all others if leaves of one first segment have equal Σ n.

    eta  η (0: 1 at every depth)
    """

    eta: float = 0.0
    whiten: bool = True
    reward: Column = REWARD
    writes = (ADVANTAGE, ABOVE, BELOW)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward,)

    async def __call__(self, b: Batch) -> Batch:
        return credited(b, self.of_pairs(b), self.whiten)

    def of_pairs(self, b: Batch) -> Tensor:
        """[member pairs] A of each turn on each path before whitening; NaN for turns that nobody sampled."""
        paths = [[u for u in b.turns_of(j) if b.structure.sampled[u]] for j in range(b.size(TRAJECTORY))]
        value = self._values(b, paths)
        credit: dict[tuple[int, int], float] = {}
        for j, path in enumerate(paths):
            for i, u in enumerate(path):
                before = value[path[i - 1]] if i else 0.0
                discount = self.eta ** (len(path) - i) if self.eta > 0 else 1.0
                credit[u, j] = value[u] - discount * before
        pairs = [credit.get((u, j), torch.nan) for u, j in b.structure.member.T.tolist()]
        a = torch.tensor(pairs, dtype=torch.float32)
        return torch.where(b[self.reward].isnan()[b.structure.member[1]], torch.full_like(a, torch.nan), a)

    def _values(self, b: Batch, paths: list[list[int]]) -> dict[int, float]:
        """V of every sampled turn."""
        against = self._against(b).tolist()
        below: dict[int, list[float]] = {}  # of a last turn: the leaf's own value
        children: dict[int, set[int]] = {}
        for path, x in zip(paths, against):
            for u, v in itertools.pairwise(path):
                children.setdefault(u, set()).add(v)
            if path and x == x:
                below.setdefault(path[-1], []).append(x)
        value: dict[int, float] = {}
        for u in sorted({u for path in paths for u in path}, reverse=True):  # children have higher numbers
            values = below.get(u, []) + [value[v] for v in sorted(children.get(u, ())) if value[v] == value[v]]
            value[u] = sum(values) / len(values) if values else torch.nan
        return value

    def _against(self, b: Batch) -> Tensor:
        """[trajectories] r̃."""
        r = b[self.reward]
        turn, leaf = b.structure.member
        size, value = node_size(b, r), node_mean(b, r)
        w = torch.where(b.structure.sampled, size, torch.zeros_like(size))[turn]
        gaps = w * (r[leaf] - value[turn]).nan_to_num(nan=0.0)
        n = group_count(b, r)
        mean = b.spread(b.mean(r, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        total: Tensor = n * (r - mean) + _sum(gaps, leaf, r)
        return total / (n + _sum(w, leaf, r))


def credited(b: Batch, a: Tensor, whiten: bool) -> Batch:
    """`b` with A [member pairs] of each turn on each path as token columns: ABOVE, BELOW and their sum, ADVANTAGE."""
    turn = b.structure.member[0]
    tokens = torch.bincount(b.structure.token_turn, minlength=b.size(TURN))[turn]
    a = torch.where(tokens > 0, a, torch.full_like(a, torch.nan))
    a = whitened(a, tokens.to(a.dtype)) if whiten else a
    for column, part in ((ADVANTAGE, a), (ABOVE, a.clamp(min=0)), (BELOW, a.clamp(max=0))):
        known = (~a.isnan()).to(a.dtype)
        total = torch.zeros(b.size(TURN), dtype=a.dtype).index_add(0, turn, part.nan_to_num(nan=0.0))
        count = torch.zeros(b.size(TURN), dtype=a.dtype).index_add(0, turn, known)
        b = b.put(column, b.spread(total / count, TURN, TOKEN))
    return b


def whitened(a: Tensor, times: Tensor, eps: float = 1e-8) -> Tensor:
    """(a − mean)·(var + eps)^(−½) with every entry counted `times` times; var unbiased, NaN left out."""
    n = torch.where(a.isnan(), torch.zeros_like(a), times)
    if float(n.sum()) <= 1:
        return a
    mean = (n * a.nan_to_num(nan=0.0)).sum() / n.sum()
    variance = (n * (a - mean).nan_to_num(nan=0.0).square()).sum() / (n.sum() - 1)
    return (a - mean) * (variance + eps).rsqrt()


def _sum(x: Tensor, index: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).index_add(0, index, x.to(like.dtype))
