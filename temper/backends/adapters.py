"""The model that a LoRA policy started from, read and sampled through the same module with its adapters switched off.

So a reference costs no second copy of the weights. It has nothing to train, to load or to save.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from temper.backends.base import AdamW, Weights
from temper.backends.local import LocalLearner
from temper.backends.local_sampler import LocalSampler
from temper.carrier import Batch
from temper.columns import Column
from temper.objective import Term


class BaseLearner(LocalLearner):
    """Reads with the adapters of `learner`'s module off."""

    def __init__(self, learner: LocalLearner):
        super().__init__(
            learner.module, AdamW(), tokenizer=learner.tokenizer, token_budget=learner.token_budget,
            autocast=learner.autocast,
        )  # fmt: skip

    def _live(self, part: Batch, watched: Mapping[Column, Any] | None = None) -> Batch:
        with self.module.disable_adapter():
            return super()._live(part, watched)

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        raise TypeError("this is the frozen base of a LoRA policy: train the policy")

    def weights(self) -> Weights:
        return {}

    def load(self, weights: Weights) -> None:
        if weights:
            raise ValueError("the base of a LoRA policy takes no weights: it shares them with the policy")

    def save(self, folder: Path) -> None:
        """Nothing: the policy's adapter directory names this model as its base."""

    def restore(self, folder: Path) -> None:
        """Nothing: see save."""


class BaseSampler(LocalSampler):
    """Samples with the adapters off; the policy's own sampler may run between two of its steps."""

    def _forward(self, *inputs: Any) -> Tensor:
        with self.module.disable_adapter():
            return super()._forward(*inputs)
