"""The gradient that a step would have had, and what each token contributed to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.backends.local import LocalLearner
from temper.carrier import Batch
from temper.columns import LOGP, TOKEN, TRAJECTORY, Column, integer
from temper.objective import Term
from temper.replay.methods import ROW

HERE = Column("replayed_row", TOKEN, integer, "the token's row in the replayed batch")


@dataclass(frozen=True)
class Gradient:
    """of        by weight, on the CPU, in the weights' dtype; only what the policy owns, not terms' modules
    credit    [tokens] −∂objective/∂log π of each sampled token: how hard the step pushes it up (or down)
    metrics   what the update reported
    """

    of: Mapping[str, Tensor]
    credit: Tensor
    metrics: Mapping[str, float]

    def credit_of(self, tokens: int, b: Batch) -> Tensor:
        """[tokens] credit by the rows of the recorded batch, of which `b` is a part or all; 0 for what it left out."""
        out = torch.zeros(tokens)
        out[b[ROW]] = self.credit
        return out

    @property
    def norm(self) -> float:
        return math.sqrt(self.dot(self))

    def dot(self, other: Gradient) -> float:
        return sum(float((g.double() * other.of[n].double()).sum()) for n, g in self.of.items())

    def cosine(self, other: Gradient) -> float:
        """NaN where one of them is 0."""
        scale = self.norm * other.norm
        return self.dot(other) / scale if scale > 0 else math.nan


class Probe(LocalLearner):
    """The local learner up to its optimiser step: the gradient is kept, no weight moves."""

    def gradient(self, batch: Batch, terms: list[Term]) -> Gradient:
        """Of the objective on the whole of `batch`, at the weights as they are."""
        self._seen: list[tuple[Tensor, Tensor]] = []
        metrics = self.update(batch.put(HERE, torch.arange(batch.size(TOKEN))), terms)
        of = {
            n: torch.zeros(p.shape, dtype=p.dtype) if p.grad is None else p.grad.detach().cpu().clone()
            for n, p in self.module.named_parameters()
            if p.requires_grad
        }
        credit = torch.zeros(batch.size(TOKEN))
        for rows, logp in self._seen:
            if logp.grad is not None:
                credit[rows] = -logp.grad.to(credit.dtype)
        self._seen = []
        self.optimizer.zero_grad(set_to_none=True)
        return Gradient(of, credit, metrics)

    def _live(self, part: Batch, watched: Mapping[Column, Any] | None = None) -> Batch:
        live = super()._live(part, watched)
        if HERE in part and live[LOGP].requires_grad:
            live[LOGP].retain_grad()
            self._seen.append((part[HERE], live[LOGP]))
        return live

    def _optimise(self) -> dict[str, float]:
        norms = [p.grad.norm() for p in self.trained if p.grad is not None]
        return {"grad_norm": float(torch.stack(norms).norm()) if norms else 0.0}


def effective(weights: Tensor) -> float:
    """(Σ|w|)²/Σw²: how many rows of equal weight would carry as much; 0 where all are 0."""
    w = weights.abs().double()
    square = float((w * w).sum())
    return float(w.sum()) ** 2 / square if square > 0 else 0.0


def per_trajectory(b: Batch, credit: Tensor) -> Tensor:
    """[trajectories] Σ|credit| over its tokens."""
    return b.sum(credit.abs(), TOKEN, TRAJECTORY).nan_to_num(nan=0.0)


def shares(credit: Tensor) -> Tensor:
    """Credit as shares of all that there is: Σ|·| = 1, or 0 everywhere."""
    total = credit.abs().sum()
    return credit / total if float(total) > 0 else credit
