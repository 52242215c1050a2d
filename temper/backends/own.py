"""A local sampler with weights of its own: it may sample while the learner trains."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from temper.backends.base import Ack, Weights
from temper.backends.local_sampler import LocalSampler
from temper.errors import UserError
from temper.fleet import Fleet


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


@dataclass(frozen=True)
class Apart:
    """`Policy.backend`: so many samplers with weights of their own in this process, beside its local learner.

    They decode while a step is trained, in a thread: on a machine with cores to spare.
    """

    samplers: int = 1

    def __post_init__(self) -> None:
        if self.samplers < 1:
            raise UserError(f"samplers must be at least 1, got {self.samplers}")

    def open(self, policy: Any, modules: Iterable[Any] = ()) -> tuple[Any, Any]:
        """(learner, sampler) of an open policy."""
        policy.backend = None
        try:
            policy.open(modules)
        finally:
            policy.backend = self
        learner = policy.learner
        options = {"max_rows": policy.max_rows, "autocast": learner.autocast}
        return learner, Fleet([OwnSampler(learner.module, policy.tokenizer, **options) for _ in range(self.samplers)])

    def release(self, policy: Any) -> None:
        """Nothing is held outside of the policy."""
