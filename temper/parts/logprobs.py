"""Other models' view of the sampled tokens, and the learner's own before the update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from temper.backends.base import Source
from temper.carrier import Batch
from temper.columns import ALLOWED, ENTROPY, LOGP, SUPPORT, TEMPERATURE, Column

BEHAVIOUR, OLD, REFERENCE = LOGP.of("behaviour"), LOGP.of("old"), LOGP.of("reference")
OLD_ENTROPY = ENTROPY.of("old")


@dataclass
class Read:
    """One forward pass of `policy` without gradient; writes each target column from a live column or a function.

    columns  {target: LOGP, ENTROPY, a function of the batch with live columns -> [tokens, …] (of it and the head, where
             the function says `takes_head`), or a feature of attention (`temper.parts.attention`)}
    """

    policy: Any
    columns: Mapping[Column, Source]
    kind = "features"
    reads = ()
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    wanted = True

    @property
    def writes(self) -> tuple[Column, ...]:
        return tuple(self.columns)

    async def __call__(self, b: Batch) -> Batch:
        out: Batch = self.policy.learner.read(b, self.columns)
        return out


def old_logp(policy: Any) -> Read:
    """log π_old: the learner's own log-probs before the update (several mini-batches, or a sampler that differs)."""
    return Read(policy, {OLD: LOGP})


def reference_logp(reference: Any) -> Read:
    """log π_ref."""
    return Read(reference, {REFERENCE: LOGP})
