"""Attention entropy

Paper: "Not All Tokens Learn Alike: Attention Entropy Reveals Heterogeneous Signals in RL Reasoning", 2026,
arXiv 2605.07660.
Hook: loss (a weight for each token, from what it looks at).
Claim: a random fifth of the tokens keeps most of the performance; soft weights lift Qwen3-8B-Base from 34.39 to 37.40.

    E_t  entropy of what token t attends to, sink left out, over log t: a low one is an anchor, a high one an explorer
    w_t = 1 + κ(s)·z_t, z the batch's ranks of E scaled to mean 0 and variance 1, clamped at 0 and rescaled to mean 1

κ moves from −κ_0 (anchors first) to +κ_0 (explorers later).
Reconstructed (the abstract alone is known): the form of the weight, the ranks, κ and its schedule. `keep` trains on a
share of the tokens instead: the lowest, the highest, or a random one, over the kept share, as in the study of subsets.
Left out: nothing else. Position and length of the prompt confound raw entropy: hence the scale and the ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from temper import streams
from temper.carrier import Batch
from temper.columns import TOKEN, Column, floating
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.attention import ATTENTION_ENTROPY, AttentionEntropy
from temper.parts.gates import settled
from temper.parts.logprobs import Read
from temper.parts.losses import Clip, Weighted
from temper.parts.schedules import Linear, Schedule
from temper.stage import Counted, Stage

SLUG = "attention-entropy"
TITLE = "Attention entropy"
PAPER = "arXiv 2605.07660"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "attention-entropy"

WEIGHT = Column(
    "attention_weight", TOKEN, floating, "of the token in the loss, by the entropy of its attention; mean 1"
)
Keep = Literal["low", "high", "random"]


def rank_z(x: Tensor) -> Tensor:
    """[n] ranks (ties share their mean) with mean 0 and variance 1; 0 where all are alike."""
    _, index, count = torch.unique(settled(x), return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count + 1) / 2)[index]
    z = rank - rank.mean()
    return z / z.square().mean().sqrt().clamp(min=1e-12)


@dataclass
class _Weigher(Counted):
    """Writes WEIGHT."""

    reads = (ATTENTION_ENTROPY,)
    writes = (WEIGHT,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        w = self.weights(b[ATTENTION_ENTROPY])
        self.calls += 1
        return b.put(WEIGHT, w / w.mean().clamp(min=1e-12))

    def weights(self, entropy: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass
class SoftWeights(_Weigher):
    """max(0, 1 + κ·z), rescaled to mean 1."""

    kappa: Schedule

    def weights(self, entropy: Tensor) -> Tensor:
        return (1 + self.kappa(self.calls) * rank_z(entropy)).clamp(min=0)


@dataclass
class Subset(_Weigher):
    """1/share on a share of the tokens, else 0: over random subsets its mean is the full gradient."""

    keep: Keep
    share: float = 0.2
    seed: int = 0

    def weights(self, entropy: Tensor) -> Tensor:
        score = settled(entropy if self.keep == "low" else -entropy)
        if self.keep == "random":
            score = torch.from_numpy(streams.generator(self.seed, "subset", self.calls).random(len(entropy)))
        kept = torch.zeros(len(entropy))
        kept[score.argsort(stable=True)[: math.ceil(self.share * len(entropy))]] = 1.0
        return kept


def attention_entropy(
    policy: Any, *, kappa: float = 0.3, steps: int = 100, keep: Keep | None = None, share: float = 0.2,
    clip_low: float = 0.2, clip_high: float = 0.2, seed: int = 0,
) -> Method:  # fmt: skip
    """kappa: κ_0; steps: calls until it is reached from −κ_0; keep, share: train on a subset instead."""
    weigh: Stage = SoftWeights(Linear(-kappa, kappa, steps)) if keep is None else Subset(keep, share, seed)
    return Method(
        on_group=[Advantage()],
        on_batch=[Read(policy, {ATTENTION_ENTROPY: AttentionEntropy()}), weigh],
        terms=[Term("policy", Weighted(Clip(clip_low, clip_high), (WEIGHT,)), per=token_mean)],
    )
