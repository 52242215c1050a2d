"""QwenLong-L1.5

Paper: "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory Management", 2025, arXiv 2512.12967;
code Tongyi-Zhiwen/Qwen-Doc.
Hook: curriculum (equal draws for every task source), advantage (σ of the source), gate (negatives wait while entropy
is high).
Claim: 9.90 points above a 30B base on long contexts; with a 4B model GRPO 56.07, with the source's σ 58.62, with AEPO
59.36.

    A = (r − mean of the group) / (σ over the batch's attempts at tasks of the same source + 1e-6)
    AEPO: H, the batch's mean entropy a token. H > H_high: attempts with A < 0 are left out, until H < H_low

A is taken before any attempt is left out, so that groups' means stay. The mode is kept between the thresholds and in
checkpoints. A source with a single attempt, or one whose attempts agree, has no σ: its advantages are those without
it.
Reconstructed: the thresholds (the paper tunes them by model).
Left out: contexts in stages, the memory agent (see `envs.refine` and `methods.rollouts` for calls in a chain) and
model merging.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, TASK, TOKEN, Column, boolean
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.domains import balanced
from temper.parts.logprobs import OLD_ENTROPY, Read
from temper.parts.losses import Clip

SLUG = "qwenlong-l15"
TITLE = "QwenLong-L1.5"
PAPER = "arXiv 2512.12967"
FAMILY = "objectives"
HOOKS = ("curriculum", "advantage", "gate")
RECIPE = "qwenlong-l15"

TRUSTED = Column("trusted", TOKEN, boolean, "credit that the policy's entropy lets through")


@dataclass(frozen=True)
class SourceStd:
    """σ + eps (unbiased) over the batch's judged attempts at tasks of the same source; 1 where there is no σ."""

    eps: float = 1e-6
    reads = (TASK,)

    def __call__(self, b: Batch, r: Tensor) -> Tensor:
        sources = [b[TASK][g].source for g in b.structure.group.tolist()]
        out = torch.ones_like(r)
        for source in dict.fromkeys(sources):
            mine = torch.tensor([s == source for s in sources])
            known = r[mine & ~r.isnan()]
            if len(known) > 1 and float(known.std()) > self.eps:
                out[mine] = known.std() + self.eps
        return out


@dataclass
class EntropyGate:
    """TRUSTED: all credit, or only what is not negative, from when entropy exceeds `high` until it is below `low`."""

    low: float = 0.2
    high: float = 0.6
    positive_only: bool = False
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (ADVANTAGE, OLD_ENTROPY)
    writes = (TRUSTED,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        h = float(b[OLD_ENTROPY].nanmean()) if b.size(TOKEN) else 0.0
        self.positive_only = h > self.high or (self.positive_only and h >= self.low)
        self.metrics = {"aepo/entropy": h, "aepo/positive_only": float(self.positive_only)}
        return b.put(TRUSTED, ~(b[ADVANTAGE] < 0) | (not self.positive_only))

    def state_dict(self) -> dict[str, bool]:
        return {"positive_only": self.positive_only}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        self.positive_only = state["positive_only"]


def qwenlong_l15(
    policy: Any, *, low: float = 0.2, high: float = 0.6, clip: float = 0.2, minibatches: int = 1
) -> Method:
    """low, high: H_low and H_high of AEPO, in nats a token."""
    return Method(
        on_batch=[Advantage(scale=SourceStd()), Read(policy, {OLD_ENTROPY: ENTROPY}), EntropyGate(low, high)],
        terms=[Term("policy", Clip(clip, clip), per=token_mean, where=TRUSTED)],
        minibatches=minibatches,
        curriculum=balanced,
    )
