"""The rows that a sampler runs: one key-value cache, right-aligned, with holes where drafts were refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.backends.keys import Piece, spared

SPARED = 5 << 19  # bytes a layer that sharing beginnings must spare to be worth its own work
SLACK = 16  # columns that are empty in every row may be this many, or a quarter, before rows are moved together


@dataclass
class Rows:
    """Running requests and the logits of what comes next for each.

    cache    of `filled` columns, the newest of which are those of the last pass
    length   [rows] tokens in the cache; they lie in the last columns unless `used` says where (the tokens of a
             beginning that several rows share, `cache.spread`, are not counted: see `whole`)
    fed      of each row, the columns that the last pass filled: its newest token, guesses, padding
    drafts   of each row, those guesses
    logits   [sum of (1 + drafts), vocabulary] row by row: after the newest token and after each guess
    used     [rows, filled] true where a row has a token; None: in its last columns
    """

    requests: list[Any]
    cache: Any
    filled: int
    length: Tensor
    fed: list[int]
    drafts: list[tuple[int, ...]]
    logits: Tensor
    used: Tensor | None = None

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def mask(self) -> Tensor:
        """[rows, filled] true where a row has a token."""
        return right(self.length, self.filled) if self.used is None else self.used

    def keep(self, rows: list[int]) -> list[int]:
        """Only these rows, the last of which move to where others leave; returns their order. Logits are spent."""
        n = len(rows)
        order, staying = list(range(n)), set(rows)
        gaps, movers = [i for i in order if i not in staying], [i for i in rows if i >= n]
        for gap, mover in zip(gaps, movers):
            order[gap] = mover
        where = [torch.tensor(x, dtype=torch.int64, device=self.logits.device) for x in (gaps, movers)]
        for layer in self.cache.layers:
            layer.leave(n, *where)
        pick = torch.tensor(order, dtype=torch.int64)
        self.requests, self.length = [self.requests[i] for i in order], self.length[pick]
        self.used = None if self.used is None else self.used[pick]
        self.fed, self.drafts = [], []
        if (spread := self.cache.spread) is not None:
            self.cache.spread = spread.kept(pick)
            for layer in self.cache.layers:
                layer.stem.spread = self.cache.spread
            if spared(self.cache, self.cache.spread.group) < SPARED:
                self.whole()
        self.close()
        return order

    def whole(self) -> None:
        """Every row gets a copy of what it begins with, if that was shared."""
        if (spread := self.cache.spread) is None:
            return
        for layer in self.cache.layers:
            layer.whole()
        self.length, self.filled, self.cache.spread = self.length + spread.before, self.filled + spread.columns, None

    def pieces(self, row: int) -> list[Piece]:
        """A copy of the row's keys and values in every layer."""
        columns = slice(self.filled - int(self.length[row]), self.filled) if self.used is None else self.used[row]
        return [layer.piece(row, columns) for layer in self.cache.layers]

    def join(self, new: Rows) -> Rows:
        """These rows and the new ones behind them."""
        self.whole()
        self.close()
        new.close()
        width = max(self.filled, new.filled)
        for a, b in zip(self.cache.layers, new.cache.layers):
            a.join(b, width)
        length, logits = torch.cat([self.length, new.length]), torch.cat([self.logits, new.logits])
        fed, drafts = self.fed + new.fed, self.drafts + new.drafts
        return Rows(self.requests + new.requests, self.cache, width, length, fed, drafts, logits)

    def grow(self, columns: int) -> None:
        """Room for that many tokens more in every row."""
        if self.used is not None:
            self.used = torch.nn.functional.pad(self.used, (0, columns), value=True)
        self.length, self.filled = self.length + columns, self.filled + columns

    def retract(self, columns: Sequence[int]) -> None:
        """Take back the newest `columns` of each row: those that all take back are gone, others are holes."""
        back = min(columns)
        mask = self.mask if max(columns) > back else None
        self.length = self.length - torch.tensor(columns)
        self.filled -= back
        for layer in self.cache.layers if back else ():
            layer.crop(self.filled)
        if mask is not None:
            more = torch.tensor(columns) - back
            self.used = mask[:, : self.filled] & (torch.arange(self.filled)[None] < (self.filled - more)[:, None])
        elif self.used is not None:
            self.used = self.used[:, : self.filled]

    @property
    def loose(self) -> bool:
        """Whether so many columns are empty that the rows should be moved together."""
        longest = int(self.length.max())
        return self.used is not None and self.filled - longest > max(SLACK, longest // 4)

    def close(self) -> None:
        """Move every row's tokens to the right, and drop the columns that are empty in all."""
        if self.used is not None:
            order = self.used.to(torch.int8).argsort(dim=1, stable=True)
            for layer in self.cache.layers:
                layer.order(order)
            self.used = None
        empty = self.filled - int(self.length.max()) if len(self) else 0
        if empty:
            for layer in self.cache.layers:
                layer.trim(empty)
            self.filled -= empty


def right(length: Tensor, filled: int) -> Tensor:
    """[rows, filled] true where a right-aligned row has a token."""
    return torch.arange(filled)[None] >= (filled - length)[:, None]


def select(cache: Any, rows: Tensor) -> None:
    for layer in cache.layers:
        layer.select(rows)
