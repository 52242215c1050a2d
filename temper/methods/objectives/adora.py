"""ADORA

Paper: "ADORA: Training Reasoning Models with Dynamic Advantage Estimation on Reinforcement Learning", 2025, code at
github.com/ShadeCloak/ADORA (no paper number is known).
Hook: advantage (a factor for the whole group, after the z-score).
Claim: 40 points on AMC after 100 steps where GRPO has 35 (16 attempts, lr 3e-7, KL 1e-3); answers lengthen sooner.
Left out: nothing. "Full reward" is a threshold on the judge's reward, since the code's 1.01 belongs to its scale of 2.
The factor makes answers longer: combined with a length penalty the two work against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TOKEN, TRAJECTORY
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage, highest
from temper.parts.kl import towards
from temper.parts.losses import Clip

SLUG = "adora"
TITLE = "ADORA"
PAPER = "github.com/ShadeCloak/ADORA"
FAMILY = "objectives"
HOOKS = ("advantage",)
RECIPE = "adora"


@dataclass(frozen=True)
class LengthAdvantage:
    """A ← factor·A in groups where thinking longer does not pay: no right answer is longer than the mean wrong one.

    Right: reward ≥ full. Wrong: below it, and shorter than `longest` tokens (cut answers say nothing about length).
    variant  "text": no right answer attenuates the group, no wrong one keeps it; "vision": the other way round
    """

    factor: float = 0.1
    full: float = 1.0
    longest: int = 3900
    variant: Literal["text", "vision"] = "text"
    reads = (ADVANTAGE, REWARD)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        factor = torch.where(self.pays(b), 1.0, self.factor)
        return b.put(ADVANTAGE, b[ADVANTAGE] * b.spread(factor, GROUP, TOKEN))

    def pays(self, b: Batch) -> Tensor:
        """[groups] bool"""
        length, r = b.count(TOKEN, TRAJECTORY), b[REWARD]
        right, wrong = r >= self.full, (r < self.full) & (length < self.longest)
        best = b.mean(highest(b, torch.where(right, length, torch.nan)), TRAJECTORY, GROUP)
        mean = b.mean(torch.where(wrong, length, torch.nan), TRAJECTORY, GROUP)
        if self.variant == "vision":
            return (best == -torch.inf) | (best > mean.nan_to_num(nan=torch.inf))
        return best > mean.nan_to_num(nan=-torch.inf)


def adora(
    policy: Any,
    *,
    reference: Any = None,
    beta: float = 1e-3,
    factor: float = 0.1,
    full: float = 1.0,
    longest: int = 3900,
    variant: Literal["text", "vision"] = "text",
    clip: float = 0.2,
    minibatches: int = 1,
) -> Method:
    """beta: weight of the KL to `reference`; the others: see `LengthAdvantage`."""
    stages, terms = towards(reference, beta)
    return Method(
        on_group=[Advantage(), LengthAdvantage(factor, full, longest, variant)],
        on_batch=stages,
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean), *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
