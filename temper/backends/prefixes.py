"""Contexts whose keys and values are kept, so that what continues them is not computed again.

A stored context serves every longer one that begins like it, for as many tokens as the two have in common: the turns of
an episode, the branches of a tree, prompts with the same system message. What is stored belongs to one state of the
weights; `clear` forgets all of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from temper.backends.keys import Piece

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A context, and its keys and values: a piece [heads, tokens, width] of each layer."""

    ids: Ids
    pieces: Sequence[Piece]

    def cut(self, layer: int, tokens: int) -> Piece:
        """The first `tokens` of a layer's piece."""
        keys, values = self.pieces[layer]
        return keys[:, :tokens], values[:, :tokens]

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for piece in self.pieces for x in piece)


class Prefixes:
    """At most `limit` bytes of keys and values; those not used for longest are forgotten first.

    age  how often everything was forgotten
    """

    def __init__(self, limit: int):
        self.limit, self.held, self.age = limit, 0, 0
        self._stored: OrderedDict[Ids, Stored] = OrderedDict()
        self._order: list[Ids] = []  # sorted: what has most in common with some ids lies next to them

    def __len__(self) -> int:
        return len(self._order)

    def longest(self, ids: Ids) -> tuple[Stored | None, int]:
        """The context that has most tokens in common with the beginning of `ids`, and how many these are."""
        at = bisect_left(self._order, ids)
        near = [(common(i, ids), i) for i in self._order[max(0, at - 1) : at + 1]]
        n, best = max(near, default=(0, ()))
        if not n:
            return None, 0
        self._stored.move_to_end(best)
        return self._stored[best], n

    def put(self, ids: Ids, pieces: Sequence[Piece]) -> None:
        """Keep a context, in place of those that it continues; nothing where a stored one continues it."""
        _, n = self.longest(ids)
        if n == len(ids):
            return
        at = bisect_left(self._order, ids)
        if at and self._order[at - 1] == ids[: len(self._order[at - 1])]:
            self._drop(self._order[at - 1])
        made = Stored(ids, pieces)
        self._stored[ids] = made
        insort(self._order, ids)
        self.held += made.bytes
        while self.held > self.limit:
            self._drop(next(iter(self._stored)))

    def clear(self) -> None:
        self._stored.clear()
        self._order.clear()
        self.held, self.age = 0, self.age + 1

    def _drop(self, ids: Ids) -> None:
        self.held -= self._stored.pop(ids).bytes
        del self._order[bisect_left(self._order, ids)]


def common(a: Ids, b: Ids) -> int:
    """How many ids both begin with."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def stems(prompts: Sequence[Ids], known: Sequence[int], worth: int) -> list[list[Ids]]:
    """What several of the sorted, distinct `prompts` begin with, where computing it once spares `worth` tokens or more.

    known  of each prompt, the tokens that need not be computed. Returned in the order of computing: what is in the
    second list continues what is in the first, and so on.
    """
    known, levels = list(known), list[list[Ids]]()
    spans = [(0, len(prompts), 0)]
    while spans:
        start, end, depth = spans.pop()
        if end - start < 2:
            continue
        shared = common(prompts[start], prompts[end - 1])
        spared = sum(max(0, min(shared, len(p) - 1) - k) for p, k in zip(prompts[start:end], known[start:end]))
        if spared - max(0, shared - max(known[start:end])) >= worth:
            levels += [[] for _ in range(depth + 1 - len(levels))]
            levels[depth].append(prompts[start][:shared])
            known[start:end] = [max(shared, k) for k in known[start:end]]
            depth += 1
        first = start + (len(prompts[start]) == shared)
        for at in range(first + 1, end + 1):
            if at == end or prompts[at][shared] != prompts[first][shared]:
                spans.append((first, at, depth))
                first = at
    return levels
