"""Who looks at whom, where stretches of several contexts lie behind one another in one row.

A stretch (`Unit`) is what lies between two forks. Its tokens look at everything that its ancestors hold, and at
themselves up to their own place. Stretches of similar size are gathered and attend together, so nothing is computed for
pairs that may not see each other. The plan travels in the place of the attention mask, which every layer hands on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

WASTE, FREE = 1.25, 20_000  # a piece ends where padding makes it WASTE times its pairs, and FREE pairs more
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


@dataclass
class Unit:
    """`length` tokens of `turns`, behind the unit `parent` (−1: a context begins)."""

    parent: int
    turns: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Piece:
    """Units that attend together.

    queries [units, q], keys [units, k]  columns of the row, padded with any column
    mask [units, 1, q, k]                true = may look; None: all begin a context, so that it is causal
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Plan:
    """back [columns]: where the output of each column is among the outputs of all pieces."""

    pieces: tuple[Piece, ...]
    back: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kernel: Kernel) -> Tensor:
        """query [1, heads, columns, width], key and value [1, kv heads, …] -> [1, columns, heads, width]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        out = [
            kernel(_take(q, p.queries), _take(k, p.keys), _take(v, p.keys), p.mask, p.mask is None)
            .transpose(1, 2)
            .flatten(0, 1)
            for p in self.pieces
        ]
        return torch.cat(out).index_select(0, self.back)[None]


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x [columns, heads, width] at index [units, n] -> [units, heads, n, width]."""
    return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:]).transpose(1, 2)


def planned(units: Sequence[Unit]) -> Tensor:
    """A stand-in for the mask of one row that holds `units` in their order; it carries their plan."""
    length = np.array([unit.length for unit in units], dtype=np.int64)
    begin = length.cumsum() - length
    before = np.zeros_like(length)  # tokens that a unit's ancestors hold
    for n, unit in enumerate(units):
        before[n] = before[unit.parent] + length[unit.parent] if unit.parent >= 0 else 0
    columns = np.arange(int(length.sum()))
    back = np.zeros_like(columns)
    pieces, done = [], 0
    for some in _bundles(list(zip(length.tolist(), (before + length).tolist()))):
        q, k = int(length[some].max()), int((before + length)[some].max())
        own, place = length[some][:, None], np.arange(q)
        queries = begin[some][:, None] + np.minimum(place, own - 1)
        back[queries[place < own]] = (done + np.arange(len(some) * q)).reshape(-1, q)[place < own]
        done += len(some) * q
        keys = np.stack([_keys(units, columns, begin, before, n, k) for n in some])
        pieces.append(Piece(torch.from_numpy(queries), torch.from_numpy(keys), _mask(before[some], q, k)))
    return _carrying(Plan(tuple(pieces), torch.from_numpy(back)))


def _keys(
    units: Sequence[Unit], columns: np.ndarray, begin: np.ndarray, before: np.ndarray, n: int, k: int
) -> np.ndarray:
    """[k] the columns that unit n looks at, its ancestors' first; padded with its last."""
    out = np.full(k, begin[n] + units[n].length - 1)
    while n >= 0:
        first, size = int(before[n]), units[n].length
        out[first : first + size] = columns[begin[n] : begin[n] + size]
        n = units[n].parent
    return out


def _bundles(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Units of (queries, keys) that attend together: those that begin a context, then the others, by size."""
    order = sorted((n for n, (q, _) in enumerate(sizes) if q), key=lambda n: (sizes[n][0] < sizes[n][1], *sizes[n]))
    bundles: list[list[int]] = []
    widest = longest = real = 0
    for n in order:
        q, k = sizes[n]
        last = bundles[-1] if bundles else []
        padded = (len(last) + 1) * max(widest, q) * max(longest, k)
        mixed = bool(last) and (q < k) != (sizes[last[0]][0] < sizes[last[0]][1])
        if not last or mixed or padded > max(WASTE * (real + q * k), real + q * k + FREE):
            bundles.append([])
            widest = longest = real = 0
        bundles[-1].append(n)
        widest, longest, real = max(widest, q), max(longest, k), real + q * k
    return bundles


def _mask(before: np.ndarray, q: int, k: int) -> Tensor | None:
    """[units, 1, q, k] ([1, …] where all are alike); padded queries look at something, padded keys are never seen."""
    if not before.any():
        return None
    first = torch.from_numpy(before[:1] if (before == before[0]).all() else before)
    return torch.arange(k) <= (first[:, None] + torch.arange(q))[:, None, :, None]


def _carrying(plan: Plan) -> Tensor:
    mask: Any = torch.zeros((1, 1, 1, 1), dtype=torch.bool)
    mask.plan = plan
    return mask  # type: ignore[no-any-return]


def plan_of(mask: Tensor | None) -> Plan | None:
    """The plan that a mask stands for, if it does."""
    return getattr(mask, "plan", None)


def moved(mask: Tensor, device: torch.device) -> Tensor:
    """The mask, or what it carries, on `device`."""
    plan = plan_of(mask)
    if plan is None or plan.back.device == device:
        return mask.to(device)
    pieces = [
        Piece(p.queries.to(device), p.keys.to(device), None if p.mask is None else p.mask.to(device))
        for p in plan.pieces
    ]
    there: Any = mask.to(device).clone()
    there.plan = Plan(tuple(pieces), plan.back.to(device))
    return there  # type: ignore[no-any-return]
