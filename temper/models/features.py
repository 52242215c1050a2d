"""Statistics of attention, reduced inside the forward pass: what a feature keeps is a few numbers a token.

A feature sees the attention weights of one chain of turns, one layer and a block of queries at a time, so no map of
context x context is ever whole. It works on the learner's own layout, where attempts share their prompt and branches
their stem: a chain's queries and keys are picked out of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import TOKEN, Column
from temper.errors import UserError
from temper.models import attention, layout
from temper.models.load import plain

BLOCK = 1 << 24  # attention weights held at once


class AttentionFeature(Protocol):
    """What to keep of attention: a source for `Read`.

    layers  number of layers -> the layers that are looked at
    size    numbers that it keeps for each head of those layers and each token
    """

    size: int

    def layers(self, n: int) -> Sequence[int]: ...

    def look(self, weights: Tensor, at: Tensor, sampled: Tensor, out: Tensor) -> None:
        """Add to `out` [places, heads, size] what a block of queries shows.

        weights [heads, queries, places]  attention of each query to every place of its chain, rows sum to 1
        at [queries]                      the queries' own places, rising; all of sampled tokens
        sampled [places]                  whether a role sampled the place's token
        """
        ...

    def reduce(self, kept: Tensor, b: Batch) -> Tensor:
        """[tokens, layers · heads, size] -> [tokens] or [tokens, …]: the column's values."""
        ...


def is_attention(source: Any) -> bool:
    return hasattr(source, "look")


@dataclass(frozen=True)
class Chain:
    """columns [places] of the flattened input; token [places]: the TOKEN row that each place is, or −1."""

    columns: Tensor
    token: Tensor


class Watch:
    """Collects features, by the column that each is for, while the model computes `part`, laid out as `r`."""

    def __init__(self, part: Batch, r: layout.Rectangle, features: Mapping[Column, AttentionFeature], layers: int):
        self.part, self.features, self.chains = part, features, _chains(part, r)
        self.layers = {c: {n % layers for n in f.layers(layers)} for c, f in features.items()}
        self.kept: dict[Column, list[Tensor]] = {c: [] for c in features}

    def __call__(self, layer: int, query: Tensor, key: Tensor, scaling: float | None) -> None:
        """query [rows, heads, n, width], key [rows, kv heads, n, width] of one layer, positions already in them."""
        wanted = {c: f for c, f in self.features.items() if layer in self.layers[c]}
        if not wanted:
            return
        tokens, heads = self.part.size(TOKEN), query.shape[1]
        q, k = (x.transpose(1, 2).flatten(0, 1) for x in (query, key))  # [columns, heads, width]
        total = {c: torch.zeros(tokens, heads, f.size) for c, f in wanted.items()}
        times = torch.zeros(tokens, 1, 1)
        for chain in self.chains:
            mine = chain.token >= 0
            out = {c: torch.zeros(len(mine), heads, f.size, device=q.device) for c, f in wanted.items()}
            for at, weights in _blocks(q, k, chain, scaling):
                for c, f in wanted.items():
                    f.look(weights, at, mine.to(q.device), out[c])
            times.index_add_(0, chain.token[mine], torch.ones(int(mine.sum()), 1, 1))
            for c, kept in out.items():
                total[c].index_add_(0, chain.token[mine], kept.cpu()[mine])
        for c, kept in total.items():  # a token on several chains has their mean
            self.kept[c].append(kept / times.clamp(min=1))

    def values(self) -> dict[Column, Tensor]:
        return {c: f.reduce(torch.cat(self.kept[c], dim=1), self.part) for c, f in self.features.items()}


@contextlib.contextmanager
def watching(
    module: Any, part: Batch, r: layout.Rectangle, features: Mapping[Column, AttentionFeature]
) -> Iterator[Callable[[], dict[Column, Tensor]]]:
    """Looks at the forward passes of `module` on `r` while it is open; gives what yields the values afterwards.

    UserError where the model's attention cannot be seen.
    """
    if not features:
        yield dict
        return
    config = plain(module).config.get_text_config()
    if getattr(config, "_attn_implementation", None) != attention.NAME:
        raise UserError(
            f"{type(plain(module)).__name__} computes attention in a way of its own, so its statistics cannot be read: "
            "take a model with standard attention, or a method that does not read it"
        )
    watch = Watch(part, r, features, config.num_hidden_layers)
    before = attention.WATCH.set(watch)
    try:
        yield watch.values
    finally:
        attention.WATCH.reset(before)


def _blocks(q: Tensor, k: Tensor, chain: Chain, scaling: float | None) -> Iterator[tuple[Tensor, Tensor]]:
    """(places of the queries, their attention [heads, queries, places]) of the chain's sampled tokens, in order."""
    columns = chain.columns.to(q.device)
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.index_select(0, columns).repeat_interleave(q.shape[1] // k.shape[1], 1).permute(1, 2, 0).to(wide)
    place = torch.arange(len(columns), device=q.device)
    rows = (chain.token >= 0).nonzero().flatten().to(q.device)
    for at in rows.split(max(1, BLOCK // (len(columns) * q.shape[1]))):
        query = q.index_select(0, columns[at]).transpose(0, 1).to(wide) * (scaling or q.shape[2] ** -0.5)
        yield at, (query @ keys).masked_fill_(place[None] > at[:, None], -torch.inf).softmax(-1)


def _chains(part: Batch, r: layout.Rectangle) -> list[Chain]:
    """The part's root-to-leaf chains of turns, by the columns where each of their tokens was first laid out."""
    s = part.structure
    length, sampled = s.start.diff().tolist(), s.sampled.tolist()
    first, made = _first_tokens(part), []
    for path in layout.chains(part):
        columns = torch.cat([r.begin[u] + torch.arange(length[u]) for u in path])
        token = torch.cat([
            first[u] + torch.arange(length[u]) if sampled[u] else torch.full((length[u],), -1) for u in path
        ])  # fmt: skip
        made.append(Chain(columns, token))
    return made


def _first_tokens(part: Batch) -> list[int]:
    """The TOKEN row of each sampled turn's first token."""
    s, at, out = part.structure, 0, []
    for n, mine in zip(s.start.diff().tolist(), s.sampled.tolist()):
        out.append(at)
        at += n if mine else 0
    return out
