"""Imitation: the negative log-likelihood of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from temper.carrier import Batch
from temper.columns import LOGP


@dataclass(frozen=True)
class NLL:
    """−log π of every token that the term's gate leaves (`gates.DEMONSTRATION`, `gates.REWARDED`, …)."""

    reads = (LOGP,)

    def __call__(self, b: Batch) -> Tensor:
        return -b[LOGP]
