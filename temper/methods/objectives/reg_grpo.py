"""Reg-GRPO (DeepVideo-R1)

Paper: Park et al., "DeepVideo-R1: Video Reinforcement Fine-Tuning via Difficulty-aware Regressive GRPO", 2025,
arXiv 2506.07464.
Hook: loss (regression of the group's z-scored log-ratios on its z-scored rewards), rollout (prompts made easier or
harder).
Claim: Qwen2.5-VL-3B on SEED-Bench-R1 8.5, 10.1 and 8.6 points above GRPO on its three levels; fewer groups without
signal.

    ϱ_i = Σ_t log π_θ − log π_old;  Â_i = (ϱ_i − mean ϱ)/√(var ϱ + ε²);  A_i = (r_i − μ)/σ
    loss = mean_i (A_i − Â_i)²
    Δ(x) = mean reward of the last groups − mean_i r_i.  Δ > 0: the best of some answers that were shown the true one is
    put before the task as a hint, a prefix, the longer the larger Δ;  Δ < 0: words of the prompt are dropped; then
    the group is played again

Neither min nor clip. With two answers the loss is 0 or 4 and has no gradient: groups need three judged answers, and
rewards that differ. At θ = π_old the direction is GRPO's, times 1/ε. It needs several optimiser steps on a batch to be
different.
Left out: noise on frames; dropped words are its analogue for text. Prompts are those of one turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import GROUP, LOGP, REWARD, TOKEN, TRAJECTORY, Column, boolean, floating
from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.difficulty import Augment
from temper.parts.kl import towards
from temper.parts.logprobs import BEHAVIOUR
from temper.stage import Stage

SLUG = "reg-grpo"
TITLE = "Reg-GRPO (DeepVideo-R1)"
PAPER = "arXiv 2506.07464"
FAMILY = "objectives"
HOOKS = ("loss", "rollout")
RECIPE = "reg-grpo"

SCORE = Column("z_score", TRAJECTORY, floating, "(r − μ)/σ in the group; NaN = not judged")
DEFINED = Column("regression_defined", GROUP, boolean, "three judged answers or more, whose rewards differ")


@dataclass(frozen=True)
class Targets:
    """SCORE and DEFINED."""

    reads = (REWARD,)
    writes = (SCORE, DEFINED)

    async def __call__(self, b: Batch) -> Batch:
        r = b[REWARD]
        n = b.sum((~r.isnan()).float(), TRAJECTORY, GROUP)
        mean = b.mean(r, TRAJECTORY, GROUP)
        centred = r - mean[b.structure.group]
        std = (b.sum(centred.nan_to_num(nan=0.0).square(), TRAJECTORY, GROUP) / n.clamp(min=1)).sqrt()
        defined = (n >= 3) & (std > 1e-6)
        return b.put(SCORE, centred / std.clamp(min=1e-6)[b.structure.group]).put(DEFINED, defined)


@dataclass(frozen=True)
class Regressive:
    """mean over the group's judged answers of (SCORE − Â)², with eps = ε."""

    eps: float = 1e-2
    level = GROUP
    reads = (LOGP, BEHAVIOUR, SCORE)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        judged, group = (~b[SCORE].isnan()).to(b[LOGP].dtype), b.structure.group
        n = b.sum(judged, TRAJECTORY, GROUP).clamp(min=1)
        drift = judged * b.sum(b[LOGP] - b[BEHAVIOUR], TOKEN, TRAJECTORY)
        centred = judged * (drift - (b.sum(drift, TRAJECTORY, GROUP) / n)[group])
        variance = b.sum(centred.square(), TRAJECTORY, GROUP) / n
        predicted = centred / (variance + self.eps**2).sqrt()[group]
        gap = judged * (b[SCORE].nan_to_num(nan=0.0) - predicted)
        return b.sum(gap.square(), TRAJECTORY, GROUP) / n, {"regression/spread": variance.detach().sqrt()}


def reg_grpo(
    policy: Any, *, judges: Sequence[Stage] = (), reference: Any = None, beta: float = 0.04, eps: float = 1e-2,
    augment: bool = False, window: int = 64, sampling: SamplingParams | None = None, seed: int = 0,
    minibatches: int = 4,
) -> Method:  # fmt: skip
    """eps: ε; augment: make prompts easier or harder, by the mean reward of the last `window` groups."""
    stages, terms = towards(reference, beta)
    again: list[Stage] = [Augment(policy, judges, window, sampling or SamplingParams(), seed)] if augment else []
    return Method(
        on_group=[*again, Targets()],
        on_batch=stages,
        terms=[Term("policy", Regressive(eps), per=row_mean, where=DEFINED), *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
