"""A reference that follows the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.objective import Update


@dataclass
class RefreshReference:
    """π_ref ← α·π_θ + (1−α)·π_ref in weight space every `every` optimiser steps: a hook for after the step.

    TR-DPO (Gorbatovski et al. 2024, arXiv 2404.09656): α = 0.6 is its soft update, α = 1 its hard one. Its state is
    the count; a checkpoint holds the weights of a reference that has moved.
    """

    reference: Any
    alpha: float = 0.6
    every: int = 512
    steps: int = 0

    def __call__(self, batch: Batch, update: Update) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            theirs = self.reference.learner.weights()
            ours = update.policy.learner.weights()
            if not theirs or theirs.keys() - ours.keys():
                raise ValueError("the reference does not offer the policy's weights, so it cannot follow them")
            self.reference.learner.load({name: self._mix(ours[name], old) for name, old in theirs.items()})

    def _mix(self, new: Tensor, old: Tensor) -> Tensor:
        return self.alpha * new.to(old.device, old.dtype) + (1 - self.alpha) * old

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]
