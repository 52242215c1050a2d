"""OThink-MR1 (GRPO-D)

Paper: Liu et al., "OThink-MR1: Stimulating multimodal generalized reasoning capabilities via dynamic reinforcement
learning", 2025, arXiv 2503.16081.
Hook: loss (the weight of GRPO's KL term rises over training).
Claim: Qwen2-VL-2B: 5.72 % (relative) above SFT and 13.59 % above GRPO on the same task, 61.63 % above SFT across tasks.

    β(s) = β_min + (β_max − β_min)·min(1, s/S): explore away from the reference first, consolidate later.

Reconstructed: the shape of the schedule and its numbers (only "dynamic" is known); linear, cosine or a step.
Left out: images; a schedule that follows the reward. The reference stays fixed, so that a late penalty can pull the
policy back to where it began: watch the reward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from temper.errors import UserError
from temper.method import Method
from temper.objective import Coefficient, Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.kl import KL, Estimator, k3, towards
from temper.parts.losses import Clip
from temper.parts.schedules import Cosine, Linear, StepAt

SLUG = "othink-grpo-d"
TITLE = "OThink-MR1 (GRPO-D)"
PAPER = "arXiv 2503.16081"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "othink-grpo-d"

Shape = Literal["linear", "cosine", "step"]


def rising(low: float, high: float, steps: int, shape: Shape = "linear") -> Callable[[int], float]:
    """From low to high within `steps` optimiser steps. UserError for a weight below 0."""
    if min(low, high) < 0:
        raise UserError(f"the weight of the KL term must not be negative, got {min(low, high):g}")
    shapes: dict[str, Callable[[float, float, int], Callable[[int], float]]] = {
        "linear": Linear, "cosine": Cosine, "step": StepAt,
    }  # fmt: skip
    return shapes[shape](low, high, steps)


def othink_grpo_d(
    policy: Any,
    *,
    reference: Any = None,
    beta: Coefficient | None = None,
    estimator: Estimator = k3,
    clip: float = 0.2,
    minibatches: int = 1,
) -> Method:
    """beta: weight of the KL to `reference` by the optimiser step (None: `rising` to 0.04 in 200 steps)."""
    beta = rising(0.0, 0.04, 200) if beta is None else beta
    stages, terms = towards(reference, beta, KL(estimator), per=seq_mean_token_mean)
    return Method(
        on_group=[Advantage()],
        on_batch=stages,
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean), *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
