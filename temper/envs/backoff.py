"""Taking back a turn whose call failed, and sampling its end again: by ids, so that nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from temper.episode import Completion
from temper.policy import Seat
from temper.tools.base import Result


class BackOff(Seat):
    """A seat that tries a turn's calls at once; where one fails, the turn is cut before it and sampled on from there.

    The answer is one completion: its ids and log-probs are those of the kept tokens and of the last attempt's.

    run      a turn's text → what its calls give; start: a text → the character where its first call begins
    retries  attempts that may be given up in all; back: tokens before the call that are given up with it
    results  of the calls of the last turn (empty where nothing was tried); used: attempts given up
    """

    def __init__(
        self,
        seat: Seat,
        run: Callable[[str], Awaitable[list[Result]]],
        start: Callable[[str], int],
        retries: int,
        back: int,
    ):
        super().__init__(seat.role, seat.policy, seat.params, seat._seed, seat._who)
        self.seat, self.run, self.start, self.retries, self.back = seat, run, start, retries, back
        self.used = 0
        self.results: list[Result] = []

    async def sample(self, ids: Sequence[int], **overrides: Any) -> Completion:
        overrides["continued"] = overrides.get("continued", False) or self.used < self.retries
        said = await self.seat.sample(ids, **overrides)
        self.results = []
        most = int(overrides.get("max_tokens", self.seat.params.max_tokens))
        while self.used < self.retries:
            self.results = await self.run(said.text)
            kept = before(said.ids, self.start(said.text), self.back, self.seat.tokenizer)
            if all(r.outcome in ("ok", "fault") for r in self.results) or kept >= most:
                break
            self.used += 1
            rest = await self.seat.sample((*ids, *said.ids[:kept]), **{**overrides, "max_tokens": most - kept})
            said = joined(said, kept, rest, self.seat.tokenizer)
            self.results = []
        return said


def before(ids: Sequence[int], character: int, back: int, tokenizer: Any) -> int:
    """How many of `ids` lie wholly before a character of their text, less the last `back` of them."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(tokenizer.decode(ids[:middle])) <= character else (low, middle - 1)
    return max(0, low - back)


def joined(first: Completion, kept: int, rest: Completion, tokenizer: Any) -> Completion:
    """The first `kept` ids of one completion, and all of the one that was sampled behind them."""
    ids = first.ids[:kept] + rest.ids
    support = None
    if first.support is not None or rest.support is not None:
        support = (first.support or ((),) * kept)[:kept] + (rest.support or ((),) * len(rest.ids))
    text = tokenizer.decode(first.ids[:kept]) + rest.text
    return replace(rest, ids=ids, logp=first.logp[:kept] + rest.logp, support=support, text=text, version=first.version)
