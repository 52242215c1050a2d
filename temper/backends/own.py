"""A local sampler with weights of its own: it may sample while the learner trains."""

from __future__ import annotations

import copy
from typing import Any

import torch

from temper.backends.base import Ack, Weights
from temper.backends.local_sampler import LocalSampler


class OwnSampler(LocalSampler):
    """Samples from a copy of `module`. Weights are loaded between samples (see `temper.fleet`)."""

    apart = True

    def __init__(self, module: Any, tokenizer: Any, **options: Any):
        super().__init__(copy.deepcopy(module), tokenizer, **options)

    async def load(self, weights: Weights, version: int) -> Ack:
        """Copy the weights in; KeyError names one that the model does not have."""
        mine = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                mine[name].copy_(value)
        return await super().load(weights, version)
