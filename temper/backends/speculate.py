"""Speculative decoding: guess the next tokens, compute them in one pass, keep what the draws confirm.

The sampler draws the n-th token of a request with the request's own n-th uniform number, whatever was guessed: a guess
saves a pass where it is right and changes no token (Hu et al. 2025, arXiv 2511.16665, ask the same under common random
numbers). So a drafter may know the uniform number too: it draws from what it believes in with the same number, and is
right more often than its favourite would be.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

from temper.backends.base import SamplingParams
from temper.errors import UserError

MARGIN = 1.15  # the gain that guessing must promise, for its own work
WAIT = 15  # passes at most between two looks whether guesses have become worth it
KEPT = 32  # of what followed one context; when more did, every other is forgotten
Kind = tuple[int | bool, ...]
Guess = tuple[int, Kind]  # a token, and the kind of guess that it is: each kind has a success rate of its own


class Running(Protocol):
    """What a drafter sees of a request.

    ids      of the prompt; drawn: of the answer so far
    uniform  the number that each token of the answer is drawn with ([] when greedy)
    hidden   [tokens, width] pieces: the target's last hidden states after drawn[0], …, drawn[-2]; only for drafters
             with `hidden = True`
    """

    ids: tuple[int, ...]
    params: SamplingParams
    drawn: list[int]
    uniform: list[float]
    hidden: list[Tensor]


class Drafter(Protocol):
    def draft(self, requests: Sequence[Running], most: int) -> list[list[Guess]]:
        """For each request at most `most` guesses of what follows, in order."""
        ...

    def ended(self, request: Running) -> None:
        """An answer is complete."""
        ...


@dataclass
class Ngrams:
    """What followed the same last tokens before: in the prompt and in answers to it, else in answers to any prompt.

    A draw takes the longest context that was seen, and what followed it, as often as it did.

    orders   lengths of contexts, longest first
    memory   tokens that are remembered with their prompts (those not asked for longest are forgotten first), and as
             many again without (all forgotten when there are more)
    """

    orders: tuple[int, ...] = (6, 4, 2)
    memory: int = 1 << 18

    def __post_init__(self) -> None:
        if not self.orders or min(self.orders) < 1 or list(self.orders) != sorted(set(self.orders), reverse=True):
            raise UserError(f"orders must be different positive lengths, longest first, got {self.orders}")
        if self.memory < 1:
            raise UserError(f"memory must be at least 1 token, got {self.memory}")
        self.tables: OrderedDict[tuple[int, ...], _Table] = OrderedDict()
        self.any = _Table()
        self.held = 0  # tokens that the prompts' tables have read

    def draft(self, requests: Sequence[Running], most: int) -> list[list[Guess]]:
        return [self._draft(r, most) for r in requests]

    def ended(self, request: Running) -> None:
        self._read(request).seen.pop(request, None)

    def _draft(self, request: Running, most: int) -> list[Guess]:
        tables, n, longest = (self._read(request), self.any), len(request.drawn), self.orders[0]
        context = (*request.ids[-longest:], *request.drawn[-longest:])[-longest:]
        guesses: list[Guess] = []
        for at in range(n, n + most):
            found = self._following(tables, context)
            if found is None:
                break
            tokens, kind = found
            token = tokens[int(request.uniform[at] * len(tokens))] if at < len(request.uniform) else _usual(tokens)
            guesses.append((token, (*kind, tokens[0] == tokens[-1])))
            context = (*context, token)[-longest:]
        return guesses

    def _following(
        self, tables: Sequence[_Table], context: tuple[int, ...]
    ) -> tuple[list[int], tuple[int, int]] | None:
        """(tokens, (order, table)) of the longest of the context's ends that was seen."""
        for order in self.orders:
            for where, table in enumerate(tables):
                if order <= len(context) and (tokens := table.after.get(context[-order:])):
                    return tokens, (order, where)
        return None

    def _read(self, request: Running) -> _Table:
        """The table of the request's prompt, which has read all that was drawn for it."""
        table = self.tables.get(request.ids)
        if table is None:
            table = self.tables[request.ids] = _Table()
            self.held += table.add(request.ids, 0, self.orders)
        self.tables.move_to_end(request.ids)
        start = table.seen.get(request, 0)
        if start < len(request.drawn):
            tail = request.ids[-self.orders[0] :]
            answer, begin = (*tail, *request.drawn), len(tail) + start
            self.held += table.add(answer, begin, self.orders)
            table.seen[request] = len(request.drawn)
            if self.any.size > self.memory:
                self.any = _Table()
            self.any.add(answer, begin, self.orders)
        while self.held > self.memory and len(self.tables) > 1:
            self.held -= self.tables.popitem(last=False)[1].size
        return table


@dataclass
class _Table:
    """context -> the tokens that followed it, sorted; `seen`: how much of each running answer it has read."""

    after: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    seen: WeakKeyDictionary[Any, int] = field(default_factory=WeakKeyDictionary)
    size: int = 0  # tokens read

    def add(self, ids: tuple[int, ...], start: int, orders: tuple[int, ...]) -> int:
        """Read `ids` from `start` on; how many these are."""
        self.size += len(ids) - start
        for at in range(start, len(ids)):
            for order in orders:
                if order <= at:
                    context = ids[at - order : at]
                    tokens = self.after.get(context)
                    if tokens is None:
                        self.after[context] = [ids[at]]
                        continue
                    if len(tokens) >= KEPT:
                        del tokens[::2]
                    insort(tokens, ids[at])
        return len(ids) - start


def _usual(tokens: list[int]) -> int:
    return max(dict.fromkeys(tokens), key=tokens.count)


@dataclass
class Speculation:
    """When to guess, and how much: as many tokens for each unit of cost as possible, by the success of guesses so far.

    A pass over n columns is taken to cost `knee` + n. Nothing here looks at a clock.

    drafter  makes the guesses
    most     guesses for a row in one pass
    rows     with more rows than these nothing is guessed
    knee     columns that cost as much as the pass itself does (about 16 for small models on a CPU core)
    """

    drafter: Drafter = field(default_factory=Ngrams)
    most: int = 6
    rows: int = 32
    knee: int = 16

    def __post_init__(self) -> None:
        for name, least in (("most", 0), ("rows", 0), ("knee", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.rates: dict[Kind, _Rate] = {}
        self.tried: list[tuple[Running, int, list[Guess]]] = []
        self.idle = self.wait = 0  # passes without guesses: still to come, and in the last row of them
        self.guessed = self.right = 0

    @property
    def hidden(self) -> bool:
        """Whether the drafter reads hidden states."""
        return getattr(self.drafter, "hidden", False)

    def propose(self, requests: Sequence[Any]) -> list[tuple[int, ...]]:
        """The guesses to compute for each running request; () where there are none."""
        nothing: list[tuple[int, ...]] = [()] * len(requests)
        if self.idle or len(requests) > self.rows or not self.most:
            self.idle = max(0, self.idle - 1)
            return nothing
        self.score()
        glance = self.wait == WAIT  # two rows show whether looking at all of them has become worth it
        requests = requests[:2] if glance else requests
        guesses = self.drafter.draft(requests, self.most)
        guesses = [g[: max(0, r.limit - len(r.drawn) - 1)] for r, g in zip(requests, guesses)]
        self.tried = [(r, len(r.drawn), g) for r, g in zip(requests, guesses) if g]
        columns = self._best([self._odds(g) for g in guesses])
        if not columns:
            self.wait = min(2 * self.wait + 1, WAIT)
            self.idle = self.wait
            return nothing
        self.wait = 0
        return nothing if glance else [tuple(token for token, _ in g[:columns]) for g in guesses]

    def ended(self, request: Running) -> None:
        if self.wait < WAIT:  # where nothing can be foreseen, nothing is remembered either
            self.drafter.ended(request)

    def state_dict(self) -> dict[str, Any]:
        self.score()
        return {"rates": [[*k, r.hits, r.tries] for k, r in self.rates.items()], "idle": [self.idle, self.wait]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates = {tuple(k): _Rate(hits, tries) for *k, hits, tries in state["rates"]}
        self.idle, self.wait = state["idle"]

    def _best(self, odds: list[list[float]]) -> int:
        """How many guesses a row make the most tokens for the cost; odds: of each guess that all before it hold too."""
        rows, tokens = len(odds), float(len(odds))
        best, value = 0, MARGIN * rows / (self.knee + rows)
        for n in range(1, 1 + max(map(len, odds))):
            tokens += sum(o[n - 1] for o in odds if len(o) >= n)
            if tokens / (self.knee + rows * (1 + n)) > value:
                best, value = n, tokens / (self.knee + rows * (1 + n))
        return best

    def _odds(self, guesses: list[Guess]) -> list[float]:
        odds, both = [], 1.0
        for _, kind in guesses:
            both *= self.rates.setdefault(kind, _Rate()).value
            odds.append(both)
        return odds

    def score(self) -> None:
        """Compare the last guesses, also those that were not computed, with what was drawn since."""
        for request, start, guesses in self.tried:
            for (token, kind), drawn in zip(guesses, request.drawn[start:]):
                self.rates.setdefault(kind, _Rate()).count(token == drawn)
                self.guessed, self.right = self.guessed + 1, self.right + (token == drawn)
                if token != drawn:
                    break
        self.tried = []


@dataclass
class _Rate:
    """Share of successes among about the last 100, beginning with one half."""

    hits: float = 2.0
    tries: float = 4.0

    @property
    def value(self) -> float:
        return self.hits / self.tries

    def count(self, hit: bool) -> None:
        self.hits, self.tries = 0.99 * self.hits + hit, 0.99 * self.tries + 1
