"""A loss for worked answers beside the policy's own attempts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP
from temper.parts.gates import DEMONSTRATION
from temper.parts.logprobs import OLD
from temper.parts.losses import Values, log_ratio


@dataclass(frozen=True)
class Hybrid:
    """−A·ρ for the policy's own rows; for demonstrations −A·m·(1 − sg π_θ)^gamma, m = 2π_θ/(π_old + ½(π_old + 1)).

    The expert's probability is modelled by ½(π_old + 1), so that m lies within 0 and 4, and is 1 where π_θ = π_old = 1
    (Dong et al. 2025, arXiv 2508.00222).
    """

    gamma: float = 0.5
    reads = (LOGP, ADVANTAGE, OLD, DEMONSTRATION)

    def __call__(self, b: Batch) -> Values:
        p, before, shown = b[LOGP].exp(), b[OLD].exp(), b[DEMONSTRATION]
        m = 2 * p / (1.5 * before + 0.5)
        unlikely = (1 - p.detach()).clamp(min=0) ** self.gamma
        weight = torch.where(shown, m * unlikely, log_ratio(b, OLD).exp())
        return -b[ADVANTAGE] * weight, {"demonstration/weight": torch.where(shown, m.detach(), torch.zeros_like(m))}
