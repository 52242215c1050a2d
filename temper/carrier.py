"""The carrier: four tables and two pointers.

    TOKEN ──▶ TURN             each sampled token was added by one turn
    TURN  ──▶ TURN             parent: what the model had in context (a tree; -1 opens a fresh context)
    TURN  ◀─▶ TRAJECTORY       member: which trajectories are judged by it (several where attempts branch)
    TRAJECTORY ──▶ GROUP       trajectories compared with one another

A TOKEN row is one sampled token, once: no padding, no prompt rows, so no mask is ever searched for. The ids of
every turn (prompt and observations too) are in `ids`, where the model layer finds its contexts. Text is derived.
Columns are typed keys, declared where they are used. Absent is not zero: an unwritten column cannot be read, a
value missing for some rows is NaN, and `sum`, `mean` and `spread` leave NaN rows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from temper.columns import GROUP, TOKEN, TRAJECTORY, TURN, Column, Level, anything, boolean, floating, integer
from temper.episode import Episode


@dataclass(frozen=True)
class Structure:
    """The four tables and their pointers (int64 unless said).

    ids [all ids]  start [turns+1]: turn u's ids are ids[start[u]:start[u+1]]  parent [turns]
    sampled [turns] bool: its ids are TOKEN rows (a role wrote it, and a trajectory here is judged by it)
    member [2, pairs]: (turn, trajectory), ordered by trajectory, then by turn order in it  group [trajectories]
    """

    ids: Tensor
    start: Tensor
    parent: Tensor
    sampled: Tensor
    member: Tensor
    group: Tensor
    groups: int

    @cached_property
    def below(self) -> dict[tuple[Level, Level], Tensor]:
        """How many rows of a lower level are below each row of a higher one, once it was asked for."""
        return {}

    @cached_property
    def token_turn(self) -> Tensor:
        """[tokens] the turn of each TOKEN row."""
        taken = torch.where(self.sampled, self.start.diff(), torch.zeros_like(self.parent))
        return torch.repeat_interleave(torch.arange(len(taken)), taken)

    @cached_property
    def token_position(self) -> Tensor:
        """[tokens] the place of each TOKEN row in `ids`."""
        return torch.repeat_interleave(self.sampled, self.start.diff()).nonzero().flatten()

    @cached_property
    def paths(self) -> list[list[int]]:
        """The turns of each trajectory, in order."""
        out: list[list[int]] = [[] for _ in range(len(self.group))]
        for turn, owner in zip(*self.member.tolist()):
            out[owner].append(turn)
        return out

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """How many rows each level has."""
        return self.token_turn.shape[0], self.parent.shape[0], self.group.shape[0], self.groups

    def size(self, level: Level) -> int:
        return self.sizes[level]


class Batch:
    """Columns over the four tables. Immutable: `put` returns a new batch that shares everything else."""

    def __init__(self, structure: Structure, columns: Mapping[str, Any] | None = None, trace: set[Any] | None = None):
        self.structure = structure
        self._columns: dict[str, Any] = dict(columns or {})  # name -> (Column, values)
        self._trace = trace  # when set, ("read" | "write", name) of every access: the contract suite's eyes

    # reading and writing -------------------------------------------------------------------------------------------

    def __getitem__(self, column: Column) -> Any:
        """A tensor [rows, …], or a list for dtype anything. KeyError names what has been written."""
        if self._trace is not None:
            self._trace.add(("read", column.name))
        if column.name not in self._columns:
            raise KeyError(f"column {column.name!r} has not been written; written: {', '.join(sorted(self._columns))}")
        declared, values = self._columns[column.name]
        if declared.level != column.level:
            raise KeyError(f"column {column.name!r} is a {declared.level.name} column, read as {column.level.name}")
        return values

    def __contains__(self, column: Column) -> bool:
        return column.name in self._columns

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for column, _ in self._columns.values())

    def put(self, column: Column, values: Any) -> Batch:
        """A new batch with `column` written. ValueError when length or dtype do not fit the declaration."""
        return self.put_all({column: values})

    def put_all(self, columns: Mapping[Column, Any]) -> Batch:
        """`put` of several."""
        for column, values in columns.items():
            if self._trace is not None:
                self._trace.add(("write", column.name))
            _check(column, values, self.structure.sizes[column.level])
        return Batch(self.structure, {**self._columns, **{c.name: (c, v) for c, v in columns.items()}}, self._trace)

    def traced(self, trace: set[Any]) -> Batch:
        """The same batch, recording every read and write of a column into `trace`."""
        return Batch(self.structure, self._columns, trace)

    def size(self, level: Level) -> int:
        return self.structure.size(level)

    @property
    def token_ids(self) -> Tensor:
        """[tokens] the sampled ids."""
        return self.structure.ids[self.structure.token_position]

    def turn_ids(self, turn: int) -> list[int]:
        s = self.structure
        ids: list[int] = s.ids[s.start[turn] : s.start[turn + 1]].tolist()
        return ids

    def turns_of(self, trajectory: int) -> list[int]:
        return list(self.structure.paths[trajectory])

    # moving between levels -----------------------------------------------------------------------------------------

    def sum(self, x: Tensor, lo: Level, hi: Level) -> Tensor:
        """Sum of x over the rows below each `hi` row, NaN left out; a row with only NaN below is NaN, with none 0."""
        total, valid, rows = self._up(x, lo, hi)
        if valid is rows:  # no NaN
            return total
        return torch.where(_like((rows > 0) & (valid == 0), total), torch.full_like(total, torch.nan), total)

    def mean(self, x: Tensor, lo: Level, hi: Level) -> Tensor:
        """Mean over the rows below, NaN left out (never a mean of means); NaN where there is none."""
        total, valid, _ = self._up(x if x.is_floating_point() else x.to(torch.float32), lo, hi)
        return torch.where(
            _like(valid == 0, total), torch.full_like(total, torch.nan), total / _like(valid, total).clamp(min=1)
        )

    def count(self, lo: Level, hi: Level) -> Tensor:
        """How many `lo` rows are below each `hi` row (float32)."""
        return self._up(torch.zeros(self.size(lo)), lo, hi)[2].clone()

    def spread(self, x: Tensor, hi: Level, lo: Level, how: str = "mean") -> Tensor:
        """Each `lo` row's value from above; where several trajectories share a turn, their mean (or how="sum")."""
        for level in range(hi, lo, -1):
            if level == GROUP:
                x = x[self.structure.group]
            elif level == TRAJECTORY:
                turn, owner = self.structure.member
                x = _collect(x[owner], turn, self.size(TURN), how)
            else:
                x = x[self.structure.token_turn]
        return x

    def at(self, column: Column, lo: Level) -> Tensor:
        """`column` as seen from a lower level: `spread` of its values."""
        return self.spread(self[column], column.level, lo)

    def by(self, key: Column | Sequence[Any], level: Level) -> Grouping:
        """Rows of `level` grouped by a key that is not the carrier's own (source × role, anchor state, step)."""
        values = self[key] if isinstance(key, Column) else key
        if len(values) != self.size(level):
            raise ValueError(f"a key of {len(values)} values cannot group {self.size(level)} {level.name} rows")
        return Grouping.of(values.tolist() if isinstance(values, Tensor) else values)

    def _up(self, x: Tensor, lo: Level, hi: Level) -> tuple[Tensor, Tensor, Tensor]:
        """(sum, how many of them count, how many there are) of each `hi` row; a row with a NaN counts as absent."""
        if (lo, hi) not in self.structure.below:
            self.structure.below[lo, hi] = self._raise(torch.ones(len(x)), lo, hi)
        rows = self.structure.below[lo, hi]
        bad = x.isnan() if x.is_floating_point() else None
        if bad is None or not bool(bad.any()):
            return self._raise(x, lo, hi), rows, rows
        bad = bad.flatten(1).any(1) if bad.dim() > 1 else bad
        kept = torch.where(_like(bad, x), torch.zeros_like(x), x)
        return self._raise(kept, lo, hi), self._raise((~bad).float(), lo, hi), rows

    def _raise(self, x: Tensor, lo: Level, hi: Level) -> Tensor:
        s = self.structure
        for level in range(lo, hi):
            if level == TOKEN:
                x = _add(x, s.token_turn, s.size(TURN))
            elif level == TURN:
                x = _add(x[s.member[0]], s.member[1], s.size(TRAJECTORY))
            else:
                x = _add(x, s.group, s.groups)
        return x

    # rows in, rows out ---------------------------------------------------------------------------------------------

    def select(self, keep: Tensor, level: Level = TRAJECTORY) -> Batch:
        """The trajectories (or groups) where `keep` [rows] is true, with their turns and what these had in context.

        A turn that is only context to what is left has no TOKEN rows: nobody here is judged by it.
        """
        keep = keep if level == TRAJECTORY else keep[self.structure.group]
        s = self.structure
        pairs = keep[s.member[1]]
        turns = torch.zeros(s.size(TURN), dtype=torch.bool)
        turns[s.member[0][pairs]] = True
        sampled = s.sampled & turns
        new = turns
        while bool(new.any()):  # what they had in context, one generation of parents at a time
            parents = s.parent[new]
            new = torch.zeros_like(turns).index_fill(0, parents[parents >= 0], True) & ~turns
            turns = turns | new
        groups = torch.zeros(s.groups, dtype=torch.bool)
        groups[s.group[keep]] = True
        kept = (sampled[s.token_turn], turns, keep, groups)
        new_turn, new_trajectory, new_group = (k.cumsum(0) - 1 for k in (turns, keep, groups))
        lengths = s.start.diff()
        parent = s.parent[turns]
        structure = Structure(
            ids=s.ids[torch.repeat_interleave(turns, lengths)],
            start=torch.cat([torch.zeros(1, dtype=torch.int64), lengths[turns].cumsum(0)]),
            parent=torch.where(parent >= 0, new_turn[parent.clamp(min=0)], parent),
            sampled=sampled[turns],
            member=torch.stack([new_turn[s.member[0][pairs]], new_trajectory[s.member[1][pairs]]]),
            group=new_group[s.group[keep]],
            groups=int(groups.sum()),
        )
        columns = {name: (c, _take(values, kept[c.level])) for name, (c, values) in self._columns.items()}
        return Batch(structure, columns, self._trace)

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """One batch of all rows. A floating or object column that some batches lack is NaN or None for their rows."""
        if len(batches) == 1:
            return batches[0]
        ss = [b.structure for b in batches]
        starts, turns, trajectories, groups = (
            _offsets([len(s.ids) for s in ss]), *(_offsets([s.size(v) for s in ss]) for v in (TURN, TRAJECTORY, GROUP))
        )  # fmt: skip
        structure = Structure(
            ids=torch.cat([s.ids for s in ss]),
            start=torch.cat([s.start[:-1] + o for s, o in zip(ss, starts)] + [torch.tensor([starts[-1]])]),
            parent=torch.cat([torch.where(s.parent >= 0, s.parent + o, s.parent) for s, o in zip(ss, turns)]),
            sampled=torch.cat([s.sampled for s in ss]),
            member=torch.cat([s.member + torch.tensor([[u], [t]]) for s, u, t in zip(ss, turns, trajectories)], dim=1),
            group=torch.cat([s.group + o for s, o in zip(ss, groups)]),
            groups=groups[-1],
        )
        columns = {c.name: c for b in batches for c in b.columns}
        joined = {name: (c, _join([b._values_or_missing(c, batches) for b in batches])) for name, c in columns.items()}
        return Batch(structure, joined, batches[0]._trace)

    def _values_or_missing(self, column: Column, others: Sequence[Batch]) -> Any:
        if column.name in self._columns:
            return self._columns[column.name][1]
        if column.dtype == anything:
            return [None] * self.size(column.level)
        if column.dtype == floating:
            like = next(b._columns[column.name][1] for b in others if column in b)
            return torch.full((self.size(column.level), *like.shape[1:]), torch.nan, dtype=like.dtype)
        raise ValueError(
            f"{column.name!r} ({column.dtype}) is missing from some of the batches and has no missing value"
        )

    @staticmethod
    def of(episodes: Iterable[Episode]) -> Batch:
        """The bridge from records. Episodes of one request share identical ENV turns; groups: see `temper.bridge`."""
        from temper.bridge import to_batch

        return to_batch(list(episodes))


@dataclass(frozen=True)
class Grouping:
    """Rows grouped by any key: `index` [rows] int64 points to one of `keys`."""

    keys: tuple[Any, ...]
    index: Tensor

    @staticmethod
    def of(values: Sequence[Any]) -> Grouping:
        keys = {k: i for i, k in enumerate(dict.fromkeys(values))}
        return Grouping(tuple(keys), torch.tensor([keys[v] for v in values], dtype=torch.int64))

    def sum(self, x: Tensor) -> Tensor:
        return _add(x.nan_to_num(nan=0.0), self.index, len(self.keys))

    def count(self, x: Tensor) -> Tensor:
        return _add((~x.isnan()).to(x.dtype), self.index, len(self.keys))

    def mean(self, x: Tensor) -> Tensor:
        """[keys], NaN left out; NaN where a key has no value."""
        return self.sum(x) / self.count(x)

    def spread(self, x: Tensor) -> Tensor:
        return x[self.index]


def _check(column: Column, values: Any, n: int) -> None:
    found = values.shape[0] if isinstance(values, Tensor) else len(values)
    if found != n:
        raise ValueError(f"{column.name!r} has {found} values for {n} {column.level.name} rows")
    if column.dtype == anything:
        fits = isinstance(values, list)
    elif not isinstance(values, Tensor):
        fits = False
    else:
        kind = floating if values.is_floating_point() else boolean if values.dtype == torch.bool else integer
        fits = kind == column.dtype
    if not fits:
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{column.name!r} is declared {column.dtype}, got {got}")


def _like(flag: Tensor, x: Tensor) -> Tensor:
    return flag.reshape(-1, *[1] * (x.dim() - 1)).expand_as(x) if x.dim() > 1 else flag


def _add(x: Tensor, index: Tensor, n: int) -> Tensor:
    return torch.zeros((n, *x.shape[1:]), dtype=x.dtype).index_add(0, index, x)


def _collect(x: Tensor, index: Tensor, n: int, how: str) -> Tensor:
    bad = x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
    x = x.to(torch.float32) if not x.is_floating_point() else x
    total, valid = _add(torch.where(bad, torch.zeros_like(x), x), index, n), _add((~bad).to(x.dtype), index, n)
    total = total / valid.clamp(min=1) if how == "mean" else total
    return torch.where(valid == 0, torch.full_like(total, torch.nan), total)


def _take(values: Any, keep: Tensor) -> Any:
    return values[keep] if isinstance(values, Tensor) else [v for v, k in zip(values, keep.tolist()) if k]


def _join(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [v for part in parts for v in part]


def _offsets(sizes: list[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))
