"""The rows that a sampler runs: one key-value cache, right-aligned, with holes where drafts were refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from temper.models.load import plain

SLACK = 16  # columns that are empty in every row may be this many, or a quarter, before rows are moved together


@dataclass
class Rows:
    """Running requests and the logits of what comes next for each.

    cache    of `filled` columns, the newest of which are those of the last pass
    length   [rows] tokens in the cache; they lie in the last columns unless `used` says where
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

    def keep(self, rows: list[int]) -> Rows:
        """Only these rows, whose logits are spent."""
        pick = torch.tensor(rows, dtype=torch.int64)
        select(self.cache, pick.to(self.logits.device))
        used = None if self.used is None else self.used[pick]
        requests = [self.requests[i] for i in rows]
        kept = Rows(requests, self.cache, self.filled, self.length[pick], [], [], self.logits, used)
        kept.close()
        return kept

    def join(self, new: Rows) -> Rows:
        self.close()
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


class Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [rows, heads, room, width] with room to grow in place; [.., :filled] is in use."""

    def __init__(self, room: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.filled = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys = key_states.new_zeros((rows, heads, self.room, width))
        self.all_values = value_states.new_zeros((rows, value_states.shape[1], self.room, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.filled + key_states.shape[2]
        if end > self.room:
            more = max(64, self.room // 2, end - self.room)
            self.all_keys, self.all_values = (
                torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self.all_keys, self.all_values)
            )
            self.room += more
        self.all_keys[:, :, self.filled : end] = key_states
        self.all_values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.all_keys[:, :, :end], self.all_values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.filled

    def select(self, rows: Tensor) -> None:
        self.all_keys, self.all_values = self.all_keys[rows], self.all_values[rows]

    def trim(self, left: int) -> None:
        self.all_keys, self.all_values = self.all_keys[:, :, left:], self.all_values[:, :, left:]
        self.filled -= left
        self.room -= left

    def crop(self, filled: int) -> None:
        """Only the first `filled` columns."""
        self.filled = filled

    def order(self, columns: Tensor) -> None:
        """Columns of each row in the order of `columns` [rows, filled]."""
        index = columns.to(self.all_keys.device)[:, None, :, None]
        for x in (self.all_keys, self.all_values):
            x[:, :, : self.filled] = x[:, :, : self.filled].gather(2, index.expand(-1, x.shape[1], -1, x.shape[3]))

    def join(self, other: Layer, width: int) -> None:
        room = max(self.room - self.filled, other.room - other.filled)

        def align(x: Tensor, filled: int) -> Tensor:
            return torch.nn.functional.pad(x[:, :, :filled], (0, 0, width - filled, room))

        self.all_keys = torch.cat([align(self.all_keys, self.filled), align(other.all_keys, other.filled)])
        self.all_values = torch.cat([align(self.all_values, self.filled), align(other.all_values, other.filled)])
        self.filled, self.room = width, width + room


def cache_of(module: Any, room: int) -> Any:
    """An empty cache for `module` with `room` columns to begin with."""
    config = plain(module).config.get_text_config()
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [Layer(room) for _ in range(config.num_hidden_layers)]
    return cache


def select(cache: Any, rows: Tensor) -> None:
    for layer in cache.layers:
        layer.select(rows)
