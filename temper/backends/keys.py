"""Keys and values of running rows, in place: rows join behind the last one, columns grow on either side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from temper.models.load import plain
from temper.models.stems import Spread, Stem

MORE = 64  # columns that are added at least where they run out
Piece = tuple[Tensor, Tensor]  # keys and values [heads, tokens, width] of one row in one layer


class Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [slots, heads, room, width]; [:rows, :, begin:end] is in use, what lies elsewhere is finite."""

    def __init__(self, room: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.rows, self.begin, self.end = room, 0, 0, 0
        self.stem: Stem | None = None  # what several rows begin with: only the decoding step reads it

    @property
    def filled(self) -> int:
        return self.end - self.begin

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.rows = key_states.dtype, key_states.device, len(key_states)
        self.all_keys, self.all_values = (
            x.new_zeros((x.shape[0], x.shape[1], self.room, x.shape[3])) for x in (key_states, value_states)
        )
        self.is_initialized = True

    @classmethod
    def of(cls, rows: Sequence[Piece | None], filled: int, room: int) -> Layer:
        """`rows` right-aligned in `filled` columns; None: of an empty row."""
        layer, some = cls(room), next(p for p in rows if p is not None)
        layer.lazy_initialization(*(x.new_empty((len(rows), x.shape[0], 0, x.shape[2])) for x in some))
        layer.end = filled
        for row, pieces in enumerate(rows):
            for x, piece in zip((layer.all_keys, layer.all_values), pieces or ()):
                x[row, :, filled - piece.shape[1] : filled] = piece
        return layer

    @classmethod
    def behind(cls, stem: Stem, rows: int, room: int) -> Layer:
        """Rows without a token of their own yet."""
        layer = cls(room)
        layer.lazy_initialization(*(x.new_empty((rows, x.shape[1], 0, x.shape[3])) for x in (stem.keys, stem.values)))
        layer.stem = stem
        return layer

    def whole(self) -> None:
        """Give each row a copy of what it begins with."""
        assert self.stem is not None
        stem, group = self.stem, self.stem.spread.group.to(self.all_keys.device)
        free = self.room - self.end
        self.all_keys, self.all_values = (
            torch.cat([shared[group], own, own.new_zeros((*own.shape[:2], free, own.shape[3]))], 2)
            for shared, own in zip((stem.keys, stem.values), self.seen())
        )
        self.begin, self.end, self.stem = 0, stem.keys.shape[2] + self.filled, None
        self.room = self.end + free

    def seen(self) -> tuple[Tensor, Tensor]:
        """What is in use."""
        return tuple(x[: self.rows, :, self.begin : self.end] for x in (self.all_keys, self.all_values))  # type: ignore[return-value]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.end + key_states.shape[2]
        if end > self.room:
            self._move(self.rows, self.begin, max(MORE, self.room // 2, end - self.room))
            end = self.end + key_states.shape[2]
        keys, values = (
            self.all_keys[: self.rows, :, self.begin : end],
            self.all_values[: self.rows, :, self.begin : end],
        )
        keys[:, :, self.end - self.begin :] = key_states
        values[:, :, self.end - self.begin :] = value_states
        self.end = end
        return keys, values

    def get_seq_length(self) -> int:
        return self.filled

    def piece(self, row: int, columns: Tensor | slice) -> Piece:
        """A copy of these columns of a row, behind what it begins with."""
        keys, values = (x[row, :, columns] for x in self.seen())
        if self.stem is not None:
            spread, group = self.stem.spread, int(self.stem.spread.group[row])
            shared = slice(spread.columns - int(spread.length[group]), None)
            return tuple(
                torch.cat([s[group, :, shared], x], 1) for s, x in ((self.stem.keys, keys), (self.stem.values, values))
            )  # type: ignore[return-value]
        return (keys.clone(), values.clone()) if isinstance(columns, slice) else (keys, values)

    def select(self, rows: Tensor) -> None:
        """These rows, which may be named several times."""
        self.all_keys, self.all_values = self.all_keys[rows], self.all_values[rows]
        self.rows = len(rows)

    def leave(self, rows: int, gaps: Tensor, movers: Tensor) -> None:
        """Only the first `rows`, after `movers` have moved into the `gaps`."""
        if len(gaps):
            for x in self.seen():
                x[gaps] = x[movers]
        self.rows = rows

    def trim(self, left: int) -> None:
        self.begin += left

    def crop(self, filled: int) -> None:
        """Only the first `filled` columns."""
        self.end = self.begin + filled

    def order(self, columns: Tensor) -> None:
        """Columns of each row in the order of `columns` [rows, filled]."""
        index = columns.to(self.all_keys.device)[:, None, :, None]
        for x in self.seen():
            x.copy_(x.gather(2, index.expand(-1, x.shape[1], -1, x.shape[3])))

    def join(self, other: Layer, width: int) -> None:
        """The rows of `other` behind these, all right-aligned in `width` columns."""
        wider, rows = width - self.filled, self.rows + other.rows
        slots = len(self.all_keys)
        if rows > slots or wider > self.begin:
            left = self.begin if wider <= self.begin else wider + self.filled // 2
            right = max(0, other.room - other.end - (self.room - self.end))
            self._move(rows if rows <= slots else max(rows, slots + slots // 2), left, right)
        self.begin -= wider
        for mine, theirs in zip((self.all_keys, self.all_values), other.seen()):
            mine[self.rows : rows, :, self.end - other.filled : self.end] = theirs
        self.rows = rows

    def _move(self, slots: int, left: int, more: int) -> None:
        """To new memory: so many slots, `left` free columns before those in use, `more` than now behind them."""
        seen, room = self.seen(), left + self.filled + self.room - self.end + more
        self.all_keys, self.all_values = (x.new_zeros((slots, x.shape[1], room, x.shape[3])) for x in seen)
        self.begin, self.end, self.room = left, left + self.filled, room
        for new, old in zip(self.seen(), seen):
            new.copy_(old)


def cache_of(module: Any, layers: Sequence[Layer] = (), room: int = 0) -> Any:
    """A cache for `module` of these layers, or an empty one with `room` columns to begin with."""
    config = plain(module).config.get_text_config()
    cache: Any = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.spread = None
    cache.layers = list(layers) or [Layer(room) for _ in range(config.num_hidden_layers)]
    return cache


def behind(cache: Any, group: Tensor, length: Tensor, room: int) -> None:
    """Make the rows of `cache`, right-aligned, what others begin with: row i of them with row `group[i]` of these."""
    keys, _ = cache.layers[0].seen()
    cache.spread = Spread(group, length, keys.shape[2], keys.device)
    seen = [layer.seen() for layer in cache.layers]
    cache.layers = [Layer.behind(Stem(k, v, cache.spread), len(group), room) for k, v in seen]


def spared(cache: Any, group: Tensor) -> int:
    """Bytes that a layer's copies of the beginnings would take for these rows, beyond those that are shared."""
    stem = cache.layers[0].stem
    shared = cache.layers[0].seen() if stem is None else (stem.keys, stem.values)
    return (len(group) - len(shared[0])) * int(sum(x[0].numel() * x.element_size() for x in shared))
