"""A step whose training begins while its last groups are still played.

The weights of a term are a row's own share divided by a total over the whole step (tokens, or trajectories): the total
is known only when the last group has landed. A gradient is linear in them. So parts of the step are computed with
undivided weights as they land, in the order of asking and in parts of the same size every time, and the sum is divided
at the end: the same gradient as of the whole batch, up to rounding.

That needs terms that share one total, one optimiser step on the batch, and nothing that has to see all of it before
(stages of the batch, signal, mini-batches): `streams` says which runs have that, of those that ask for it
(`Run.streamed`). All others train when a step is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import TOKEN, TRAJECTORY
from temper.objective import SeqMeanTokenSumNorm, Term, seq_mean_token_mean, seq_mean_token_sum, token_mean

if TYPE_CHECKING:
    from temper.run import Run

PARTS = 8  # of a step
OF_TOKENS = ("entropy", "policy_kl")  # metrics that are means over what was computed


def _tokens(b: Batch, live: Tensor) -> Tensor:
    return live.sum().clamp(min=1)


def _trajectories(b: Batch, live: Tensor) -> Tensor:
    return (b.sum(live, TOKEN, TRAJECTORY) > 0).sum().clamp(min=1)


TOTALS: dict[Any, Callable[[Batch, Tensor], Tensor]] = {
    token_mean: _tokens,
    seq_mean_token_mean: _trajectories,
    seq_mean_token_sum: _trajectories,
}


def total(term: Term) -> Callable[[Batch, Tensor], Tensor] | None:
    """What a term's weights are divided by; None where that is not known to be a sum over the step's parts."""
    if term.level != TOKEN:
        return None
    return _trajectories if isinstance(term.per, SeqMeanTokenSumNorm) else TOTALS.get(term.per)


def streams(run: Run) -> bool:
    """Whether a step's training may begin before all of it has landed."""
    return run.streamed and not run.ahead and not hindered(run)


def hindered(run: Run) -> str:
    """Why training begins only with whole steps, also where `ahead` is 0; "" where it may begin before."""
    if not run.apart:
        return "samplers share the learner's weights"
    if run.on_batch:
        return f"{type(run.on_batch[0]).__name__} has to see all of a step"
    if run.signal is not None:
        return "which groups count is known once all of a step is played"
    if run.dealt is not None:
        return "its groups are dealt to optimiser steps once all of them are there"
    if len(run.updates) != 1:
        return f"there are {len(run.updates)} updates"
    [update] = run.updates
    if not (update.epochs == update.minibatches == 1 and not update.before and update.roles is None):
        return "a step is more than one optimiser step on all of its rows"
    divided = {(total(t), t.where, tuple(c for c in t.reads)) for t in update.terms}
    if len(divided) != 1 or None in {d for d, *_ in divided}:
        return "the terms have no total in common"
    if not hasattr(update.policy.learner, "begin"):
        return f"{type(update.policy.learner).__name__} cannot begin before"
    return ""


@dataclass(frozen=True)
class _Raw:
    """Weights before they are divided."""

    term: Term

    def __call__(self, b: Batch, live: Tensor) -> Tensor:
        by = total(self.term)
        assert by is not None
        live = live.double()  # float32 weights would be rounded twice
        return self.term.per(b, live) * by(b, live)


def raw(terms: Sequence[Term]) -> list[Term]:
    """The terms with undivided weights."""
    return [replace(t, per=_Raw(t)) for t in terms]


@dataclass
class Begun:
    """The parts of a step so far: tokens, what was computed of them, metrics, and the sum of each term's weights."""

    parts: list[tuple[int, Batch, dict[str, float], list[float]]] = field(default_factory=list)

    def add(self, tokens: int, seen: Batch, metrics: dict[str, float], totals: list[float]) -> None:
        self.parts.append((tokens, seen, metrics, totals))

    def whole(self, batch: Batch, terms: Sequence[Term]) -> tuple[float, dict[str, float], Batch]:
        """(factor of the gradient, metrics, what was computed). RuntimeError where the parts are not the batch."""
        tokens = sum(n for n, *_ in self.parts)
        if tokens != batch.size(TOKEN):
            raise RuntimeError(f"{tokens} tokens of a step were computed as they landed, of {batch.size(TOKEN)}")
        by = total(terms[0])
        assert by is not None
        scale = 1 / float(by(batch, terms[0].live(batch)))
        weighed, computed = sum(sum(t) for *_, t in self.parts), sum(s.size(TOKEN) for _, s, *_ in self.parts)
        out: dict[str, float] = {}
        for _, seen, metrics, totals in self.parts:
            for name, value in metrics.items():
                mean = seen.size(TOKEN) / max(1, computed) if name in OF_TOKENS else sum(totals) / weighed
                out[name] = out.get(name, 0.0) + value * (scale if name.startswith("loss/") else mean)
        return scale, out, Batch.concat([seen for _, seen, *_ in self.parts])
