"""A reward of two parties: what the user has of an answer, and what the assistant has of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import CORE, REWARD
from temper.errors import UserError
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED
from temper.rewards.welfare import Measured, measured


@dataclass
class Welfare:
    """SHAPED = √(U·A) of REWARD c ∈ [0, 1]; 0 where nothing can be read, NaN where nobody judged.

        U = ε + ½·c + 0.2·window(response) + 0.3·exp(−reasoning/500)
        A = ε + 0.2·form + 0.2·apart + 0.4·c + 0.2·window(whole), without sections ε + the other three over 0.8

    form "arithmetic": (U + A)/2, for comparison. sections, lengths: see `temper.rewards.welfare.measured`.
    """

    form: Literal["geometric", "arithmetic"] = "geometric"
    sections: bool = True
    lengths: float = 1.0
    eps: float = 1e-4
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD,)
    uses = CORE
    writes = (SHAPED,)

    def __post_init__(self) -> None:
        if not self.lengths > 0:
            raise UserError(f"lengths must be above 0, got {self.lengths}")

    async def __call__(self, b: Batch) -> Batch:
        found = [measured(row.completion, self.sections, self.lengths) for row in rows_of(b)]
        user, assistant = self.parties(found, b[REWARD].clamp(0, 1))
        read = torch.tensor([m.read for m in found], dtype=torch.bool)
        score = self.joint(user, assistant)
        shown = {"user": user, "assistant": assistant, "minimum": torch.minimum(user, assistant), "score": score}
        self.metrics = {f"welfare/{k}": float(torch.where(read, x, 0.0).nanmean()) for k, x in shown.items() if len(x)}
        self.metrics |= {"welfare/read": float(read.float().mean())} if len(read) else {}
        return b.put(SHAPED, torch.where(read | b[REWARD].isnan(), score, torch.zeros_like(score)))

    def joint(self, user: Tensor, assistant: Tensor) -> Tensor:
        """The welfare of both: √(U·A), or their mean."""
        return (user * assistant).sqrt() if self.form == "geometric" else (user + assistant) / 2

    def parties(self, found: list[Measured], c: Tensor) -> tuple[Tensor, Tensor]:
        """(U, A) [trajectories]"""
        form, apart, response, reasoning, whole = (
            torch.tensor([getattr(m, name) for m in found], dtype=c.dtype)
            for name in ("form", "apart", "response", "reasoning", "whole")
        )
        user = self.eps + 0.5 * c + 0.2 * response + 0.3 * reasoning
        assistant = 0.2 * form + 0.4 * c + 0.2 * whole
        return user, self.eps + (assistant + 0.2 * apart if self.sections else assistant / 0.8)
