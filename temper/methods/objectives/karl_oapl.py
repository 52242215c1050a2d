"""KARL (OAPL)

Paper: "KARL: Knowledge Agents via Reinforcement Learning", 2026, arXiv 2603.05218; its objective OAPL: arXiv
2602.19362.
Hook: loss (regression of the log-ratio on the advantage, on large batches that may be hundreds of updates old).
Claim: matches a coder trained by GRPO with a third of the samples and keeps entropy; trained on two search tasks it is
better on four others than distillation from an expert.

    β log(π*/π_b)(y|x) = r − V*(x)
    loss = Σ_i (β Σ_t (log π_θ − log π_b) − (r_i − V̂))²,   V̂ = β_1 log mean_i exp(r_i/β_1) over the group

π_b is the sampler's, with its own log-probs; no importance weights, no clip, no tokens dropped. β_1 → ∞ gives the
group's mean, β_1 → 0 its maximum. Groups that agree are left out. V̂ is taken before the update, so that rows need not
stay together. Sums over tokens make the scale depend on length: β is tuned with it (the default suits a hundred
tokens).
Left out: the synthesis of questions from a corpus, compression of contexts, balance by tokens, search at test time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import GROUP, LOGP, REWARD, TOKEN, TRAJECTORY, Column, floating
from temper.errors import UserError
from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.advantages import highest
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.signals import RewardVaries

SLUG = "karl-oapl"
TITLE = "KARL (OAPL)"
PAPER = "arXiv 2602.19362"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "karl-oapl"

TARGET = Column("regression_target", TRAJECTORY, floating, "r − V̂ of the trajectory's group")


@dataclass(frozen=True)
class SoftValue:
    """TARGET = r − β_1 log mean exp(r/β_1), over the group's judged attempts; in float64."""

    beta: float = 1.0
    reads = (REWARD,)
    writes = (TARGET,)

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise UserError(f"the temperature of the soft value must be above 0, got {self.beta:g}")

    async def __call__(self, b: Batch) -> Batch:
        r = b[REWARD].double()
        top = highest(b, r)
        mean = b.spread(b.mean(((r - top) / self.beta).exp(), TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        return b.put(TARGET, (r - top - self.beta * mean.log()).to(b[REWARD].dtype))


@dataclass(frozen=True)
class Regression:
    """(β Σ_t (log π_θ − log π_b) − TARGET)² of every trajectory, over its sampled tokens."""

    beta: float = 0.05
    level = TRAJECTORY
    reads = (LOGP, BEHAVIOUR, TARGET)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        drift = b.sum(b[LOGP] - b[BEHAVIOUR], TOKEN, TRAJECTORY)
        error = self.beta * drift - b[TARGET].nan_to_num(nan=0.0)
        return error.square(), {"regression/error": error.detach().abs(), "regression/drift": drift.detach()}


def karl_oapl(policy: Any, *, beta: float = 0.05, value_beta: float = 1.0, minibatches: int = 16) -> Method:
    """beta: β; value_beta: β_1; minibatches: optimiser steps on each large batch."""
    return Method(
        on_group=[SoftValue(value_beta)],
        terms=[Term("policy", Regression(beta), per=row_mean)],
        signal=RewardVaries(),
        minibatches=minibatches,
    )
