"""What is minimised: a sum of terms, each with its own rows, weights and denominator.

    objective = Σ_terms coef · Σ_rows weight(row) · loss(row)

A term's weights come from `per`, a function of columns that are known before the forward pass. So every denominator
is computed once, over the whole optimiser step: the gradient is the same for any micro-batch split, row order or
number of devices, and adding a term never dilutes another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from temper.carrier import Batch
from temper.columns import DEALT, ENTROPY, GROUP, HIDDEN, LOGP, ROLE, TOKEN, TRAJECTORY, Column, Level, floating
from temper.errors import UserError

Per = Callable[[Batch, Tensor], Tensor]
Coefficient = float | Callable[[int], float]

LIVE = Column("live", TOKEN, floating, "1 where the term that is being computed applies, else 0; live in a term")
LIVE_COLUMNS = ("logp", "entropy", "hidden", "value", "live")  # known only inside a term


class Loss(Protocol):
    """A callable Batch -> Tensor [rows of `level`], or (Tensor, {metric name: Tensor [rows]}).

    Inside it the batch holds the live columns LOGP, ENTROPY (and HIDDEN when read) of the policy being trained.
    Optional attributes: `reads` (columns it needs), `level` (default TOKEN), `modules` (own parameters), `factors`
    (columns that it is a multiple of: where one is 0, so are the row's value and its gradient).
    """

    def __call__(self, b: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]: ...


def token_mean(b: Batch, live: Tensor) -> Tensor:
    """Weights 1/Σ live: every live token counts the same (DAPO)."""
    return live / live.sum().clamp(min=1)


row_mean = token_mean  # the same formula for losses at TRAJECTORY or GROUP


def seq_mean_token_mean(b: Batch, live: Tensor) -> Tensor:
    """Weights 1/(N·T_i): tokens averaged in each trajectory, then over the N live trajectories (original GRPO)."""
    tokens = b.sum(live, TOKEN, TRAJECTORY)
    rows = tokens > 0
    return live * b.spread(rows / (tokens.clamp(min=1) * rows.sum().clamp(min=1)), TRAJECTORY, TOKEN, how="sum")


def seq_mean_token_sum(b: Batch, live: Tensor) -> Tensor:
    """Weights 1/N: tokens summed in each trajectory, then averaged over the N live trajectories (REINFORCE).

    For a loss that is already a per-trajectory mean (GSPO) this is LUSPO: the trajectory's loss times its length.
    """
    rows = b.sum(live, TOKEN, TRAJECTORY) > 0
    return live * b.spread(rows / rows.sum().clamp(min=1), TRAJECTORY, TOKEN, how="sum")


luspo = seq_mean_token_sum


@dataclass(frozen=True)
class SeqMeanTokenSumNorm:
    """Weights 1/(N·length): as seq_mean_token_sum over a constant, usually the longest answer allowed (Dr. GRPO)."""

    length: float

    def __call__(self, b: Batch, live: Tensor) -> Tensor:
        return seq_mean_token_sum(b, live) / self.length


@dataclass(frozen=True)
class Term:
    """One summand of the objective.

    name   names its metrics ("loss/<name>")
    loss   see Loss
    coef   a number, or a function of the optimiser step (a schedule, or a controller with memory)
    per    (batch, live rows as 0/1) -> weights of the same shape, over the whole optimiser step
    where  a boolean column at the loss's level: the rows that the term may use (a gate)

    Rows for which a column that the loss reads is NaN are not the term's: absent is not zero. So a policy term leaves
    demonstrations and unjudged attempts alone, in the numerator and in the denominator.
    """

    name: str
    loss: Loss | Callable[[Batch], Any]
    coef: Coefficient = 1.0
    per: Per = token_mean
    where: Column | None = None

    @property
    def level(self) -> Level:
        return getattr(self.loss, "level", TOKEN)

    @property
    def reads(self) -> tuple[Column, ...]:
        """What must have been written before the update (live columns are made by it)."""
        own = tuple(c for c in getattr(self.loss, "reads", ()) if c.name not in LIVE_COLUMNS)
        return own + ((self.where,) if self.where is not None else ())

    @property
    def live_reads(self) -> frozenset[str]:
        return frozenset(c.name for c in getattr(self.loss, "reads", ()) if c.name in LIVE_COLUMNS)

    def live(self, b: Batch) -> Tensor:
        """[rows of level] 1.0 where the term applies."""
        keep = torch.ones(b.size(self.level), dtype=torch.bool)
        for column in self.reads:
            if column == self.where:
                keep = keep & b[column]
            elif column.dtype == floating and column.level >= self.level:
                values = b.at(column, self.level)
                keep = keep & ~(values.isnan().flatten(1).any(1) if values.dim() > 1 else values.isnan())
        return keep.to(torch.float32)

    def weights(self, b: Batch) -> Tensor:
        """[rows of level] without the coefficient; their denominators are those of the whole of `b`."""
        return self.per(b, self.live(b))

    def learns(self, b: Batch, weights: Tensor) -> Tensor:
        """[rows of level] bool: the rows whose gradient is not known to be 0 before the forward pass."""
        rows = weights > 0
        for column in (c for c in getattr(self.loss, "factors", ()) if c.level >= self.level):
            rows = rows & (b.at(column, self.level) != 0)
        return rows

    def values(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every row, and its metrics. Dead rows stay harmless: no NaN token inputs, no gradient."""
        live = self.live(b)
        if self.level == TOKEN:
            b = b.put(LIVE, live)
        else:
            live = b.spread(live, self.level, TOKEN, how="sum")
        if not bool((live > 0).all()):
            for column in (c for c in (LOGP, ENTROPY, HIDDEN) if c.name in self.live_reads):
                b = b.put(column, _only(b[column], live > 0))
        for column in self.reads:
            if column.level == TOKEN and column.dtype == floating:
                b = b.put(column, b[column].nan_to_num(nan=0.0))
        out = self.loss(b)
        return out if isinstance(out, tuple) else (out, {})

    def coefficient(self, step: int) -> float:
        return self.coef(step) if callable(self.coef) else self.coef


@dataclass
class Update:
    """A learner, the terms it minimises, and the rows it trains on.

    policy       the policy to train (its learner must be open)
    terms        summed
    epochs       passes over the batch
    minibatches  optimiser steps a pass; trajectories are dealt in a seeded random order, groups whole
    roles        only trajectories of these roles (None: all)
    before/after called as hook(batch, update) around every optimiser step
    """

    policy: Any
    terms: list[Term]
    epochs: int = 1
    minibatches: int = 1
    roles: tuple[str, ...] | None = None
    before: list[Callable[..., None]] = field(default_factory=list)
    after: list[Callable[..., None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("minibatches", self.minibatches)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        names = [t.name for t in self.terms]
        twice = [n for n in names if names.count(n) > 1]
        if twice:
            raise UserError(f"two terms are called {twice[0]!r}: give each its own name")

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys(c for t in self.terms for c in t.reads))

    @property
    def modules(self) -> list[nn.Module]:
        """Parameters that terms own (a value head, a log-partition): trained, saved and loaded with the policy."""
        owned = [m for t in self.terms for m in getattr(t.loss, "modules", ())]
        return list(dict.fromkeys(owned))

    def rows(self, b: Batch) -> Batch:
        if self.roles is None:
            return b
        return b.select(torch.tensor([r in self.roles for r in b[ROLE]], dtype=torch.bool))

    def __call__(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """Train on `batch`; returns the metrics of all optimiser steps, averaged."""
        batch = self.rows(batch)
        if batch.size(TRAJECTORY) == 0 or batch.size(TOKEN) == 0:
            return {"skipped_updates": 1.0}
        records = []
        for epoch in range(self.epochs):
            for part in deal(batch, self.minibatches, seed + epoch):
                for hook in self.before:
                    hook(part, self)
                records.append(self.policy.learner.update(part, self.terms))
                for hook in self.after:
                    hook(part, self)
        first = records[0].get("policy_kl")  # later steps on the same batch have moved away by themselves
        return mean_of(records) | ({} if first is None else {"policy_kl_first": first})


def _only(x: Tensor, rows: Tensor) -> Tensor:
    """x, through which only `rows` [tokens] get a gradient."""
    rows = rows.to(x.device)
    return torch.where(rows[:, None] if x.dim() > 1 else rows, x, x.detach())


def deal(b: Batch, parts: int, seed: int) -> list[Batch]:
    """`b` as `parts` batches of whole groups (fewer when there are fewer groups), in an order drawn from `seed`.

    Where they are dealt already (DEALT), they stay so.
    """
    if DEALT in b:
        return [b.select(b[DEALT] == n, GROUP) for n in b[DEALT].unique().tolist()]
    parts = min(parts, b.size(GROUP))
    if parts == 1:
        return [b]
    order = torch.randperm(b.size(GROUP), generator=torch.Generator().manual_seed(seed))
    owner = torch.empty_like(order)
    owner[order] = torch.arange(len(order)) % parts
    return [b.select(owner == p, GROUP) for p in range(parts)]


def mean_of(records: list[dict[str, float]]) -> dict[str, float]:
    """Per key the mean over the records that have it."""
    keys = dict.fromkeys(k for r in records for k in r)
    return {k: sum(r[k] for r in records if k in r) / sum(k in r for r in records) for k in keys}
