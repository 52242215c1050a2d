"""Statistics of attention, as sources for `Read` (see `temper.models.features`): one forward pass without gradient.

Read(policy, {ATTENTION_ENTROPY: AttentionEntropy()})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ALLOWED, SUPPORT, TEMPERATURE, TOKEN, TRAJECTORY, Column, floating

ATTENTION_ENTROPY = Column("attention_entropy", TOKEN, floating, "spread of what the token looks at, in [0, 1]")
HEAD_DISTANCE = Column("head_distance", TOKEN, floating, "[tokens, heads] how far each head looks back")
RHYTHM = Column("rhythm", TOKEN, floating, "[tokens, 2] distance that is looked back, influence on later tokens")
END_ATTENTION = Column("end_attention", TOKEN, floating, "attention that the trajectory's last token pays to the token")


Layers = Callable[[int], Sequence[int]]


def every_layer(n: int) -> Sequence[int]:
    return range(n)


def without_sink(weights: Tensor) -> Tensor:
    a = weights.clone()
    a[..., 0] = 0
    return a


def back(weights: Tensor, at: Tensor) -> Tensor:
    """[queries, places] how far each place lies behind the query; 0 for those that are not behind it."""
    place = torch.arange(weights.shape[-1], device=weights.device)
    return (at[:, None] - place[None]).clamp(min=0)


@dataclass(frozen=True)
class Spaced:
    """`count` evenly spaced layers between the shares `low` and `high` of the depth (the middle third: 1/3 to 2/3)."""

    count: int = 5
    low: float = 1 / 3
    high: float = 2 / 3

    def __call__(self, n: int) -> Sequence[int]:
        first, last = math.floor(self.low * n), max(math.floor(self.low * n), math.ceil(self.high * n) - 1)
        places = torch.linspace(first, last, min(self.count, last - first + 1))
        return sorted({round(x) for x in places.tolist()})


@dataclass(frozen=True)
class AttentionEntropy:
    """E_t = −Σ_s a_s log a_s / log(t), over the t places after the sink, mean over layers and heads; in [0, 1].

    a is the attention of token t with its first place, the sink, left out and rescaled to sum to 1. 0 = all on one
    place, 1 = the same on all. 0 where fewer than two places are left.
    sink  whether the first place of the context counts
    """

    which: Layers = every_layer
    sink: bool = False
    size: int = 1

    def layers(self, n: int) -> Sequence[int]:
        return self.which(n)

    def look(self, weights: Tensor, at: Tensor, sampled: Tensor, out: Tensor) -> None:
        first = 0 if self.sink else 1
        a = weights[..., first:]
        a = a / a.sum(-1, keepdim=True).clamp(min=1e-30)
        entropy = -torch.xlogy(a, a).sum(-1)
        seen = (at + 1 - first).clamp(min=1)
        scale = torch.where(seen > 1, seen.log(), torch.ones_like(seen, dtype=entropy.dtype))
        out[at, :, 0] = torch.where(seen > 1, entropy / scale, torch.zeros_like(entropy)).transpose(0, 1).to(out.dtype)

    def reduce(self, kept: Tensor, b: Batch) -> Tensor:
        return kept[:, :, 0].mean(1)


@dataclass(frozen=True)
class HeadDistance:
    """[tokens, heads]: how far each head of the chosen layers looks back from the token, Σ_s a[t, s] · (t − s)."""

    which: Layers = Spaced()
    size: int = 1

    def layers(self, n: int) -> Sequence[int]:
        return self.which(n)

    def look(self, weights: Tensor, at: Tensor, sampled: Tensor, out: Tensor) -> None:
        out[at, :, 0] = (without_sink(weights) * back(weights, at)).sum(-1).transpose(0, 1).to(out.dtype)

    def reduce(self, kept: Tensor, b: Batch) -> Tensor:
        return kept[:, :, 0]


@dataclass(frozen=True)
class Rhythm:
    """[tokens, 2]: what local heads look back to, and how much global heads of later tokens look at the token.

    WAAD_t = Σ_s A_local[t, s] · min(t − s, window);  FAI_s = mean over t in [s + near, s + far] of A_global[t, s], over
    the context's sampled tokens; NaN where there is no such t. A_local and A_global are means over the heads `local`
    and `glob`, numbered through the chosen layers (as `HeadDistance` numbers them). The first place of a context, the
    sink, is left out (Wang et al. 2025, arXiv 2510.13554).
    """

    local: tuple[int, ...]
    glob: tuple[int, ...]
    which: Layers = Spaced()
    window: int = 10
    near: int = 10
    far: int = 50
    size: int = 3  # WAAD, Σ of later tokens' attention, their number

    def layers(self, n: int) -> Sequence[int]:
        return self.which(n)

    def look(self, weights: Tensor, at: Tensor, sampled: Tensor, out: Tensor) -> None:
        a, distance = without_sink(weights), back(weights, at)
        out[at, :, 0] = (a * distance.clamp(max=self.window)).sum(-1).transpose(0, 1).to(out.dtype)
        later = (distance >= max(self.near, 1)) & (distance <= self.far)
        out[:, :, 1] += (a * later).sum(1).transpose(0, 1).to(out.dtype)
        out[:, :, 2] += later.sum(0)[:, None]

    def reduce(self, kept: Tensor, b: Batch) -> Tensor:
        local, glob = kept[:, list(self.local)], kept[:, list(self.glob)]
        future = glob[:, :, 1].mean(1) / glob[:, :, 2].mean(1)  # 0 / 0, where nothing is late enough, is NaN
        return torch.stack([local[:, :, 0].mean(1), future], dim=1)


@dataclass
class Rhythms:
    """RHYTHM of every token, by the `share` of heads that look back least (local) and most (global).

    Heads are ranked on the first `sample` trajectories, in a forward pass of their own.
    """

    policy: Any
    share: float = 0.3
    sample: int = 256
    near: int = 10
    far: int = 50
    kind = "features"
    reads = ()
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = (RHYTHM,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        few = b.select(torch.arange(b.size(TRAJECTORY)) < self.sample)
        distance = self.policy.learner.read(few, {HEAD_DISTANCE: HeadDistance()})[HEAD_DISTANCE].mean(0)
        order, n = distance.argsort(stable=True).tolist(), max(1, round(self.share * len(distance)))
        rhythm = Rhythm(tuple(order[:n]), tuple(order[-n:]), near=self.near, far=self.far)
        out: Batch = self.policy.learner.read(b, {RHYTHM: rhythm})
        return out


@dataclass(frozen=True)
class FromTheEnd:
    """Attention that the last sampled token of a context pays to each sampled token before it, mean over heads.

    which  layers that are looked at (default: the deeper half)
    """

    which: Layers = Spaced(1 << 16, 0.5, 1.0)
    size: int = 1

    def layers(self, n: int) -> Sequence[int]:
        return self.which(n)

    def look(self, weights: Tensor, at: Tensor, sampled: Tensor, out: Tensor) -> None:
        last = int(sampled.nonzero()[-1])
        here = (at == last).nonzero().flatten()
        if len(here):
            out[:, :, 0] += weights[:, here[0]].transpose(0, 1).to(out.dtype)

    def reduce(self, kept: Tensor, b: Batch) -> Tensor:
        return kept[:, :, 0].mean(1)
