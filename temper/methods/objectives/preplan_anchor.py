"""Preplan and anchor

Paper: Wang et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables Fine-Grained Policy
Optimization", 2025, arXiv 2510.13554.
Hook: advantage (a factor for each token, from attention).
Claim: Countdown 52.6 to 63.1; Qwen3-8B: AIME 2025 +5.0, AMC 2023 +6.3 points; random tokens gain nothing.

    WAAD_t (what local heads look back to) and FAI_t (how much later tokens look at t): see `parts.attention.Rhythm`
    preplan: the 40 % of an answer's tokens with the largest Δ_t = |WAAD_t − WAAD_{t+1}|;  anchor: its 40 % largest FAI
    local: γ = 1.5 on preplan tokens;  global: γ = 1.5 on anchors;  coupled: as global, but an anchor with WAAD below
    its answer's median and a preplan token among the k before it has 1 + ½(1 − α), and that token 1 + ½α
    A_t ← γ_t A_t where A_t ≥ 0

Left out: nothing. The median as the threshold of "locally dominated" is reconstructed. Heads are ranked on the first
`sample` trajectories of a batch, in a forward pass of their own. The last tokens, behind which nothing is far enough to
look back, are no anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.attention import RHYTHM, Rhythms
from temper.parts.gates import settled
from temper.parts.losses import Clip
from temper.parts.walks import by_turn

SLUG = "preplan-anchor"
TITLE = "Preplan and anchor"
PAPER = "arXiv 2510.13554"
FAMILY = "objectives"
HOOKS = ("advantage",)
RECIPE = "preplan-anchor"

Form = Literal["local", "global", "coupled"]


@dataclass(frozen=True)
class Emphasise:
    """A ← γA where A ≥ 0."""

    form: Form = "coupled"
    share: float = 0.4
    gain: float = 0.5
    alpha: float = 0.5
    before: int = 3
    reads = (ADVANTAGE, RHYTHM)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        gamma = torch.ones(b.size(TOKEN))
        for at in by_turn(b):
            gamma[at] = self.gamma(b[RHYTHM][at, 0], b[RHYTHM][at, 1])
        return b.put(ADVANTAGE, torch.where(b[ADVANTAGE] >= 0, gamma, 1.0) * b[ADVANTAGE])

    def gamma(self, waad: Tensor, influence: Tensor) -> Tensor:
        """[tokens of an answer], from their WAAD and FAI (NaN: no anchor)."""
        step = torch.cat([(waad[:-1] - waad[1:]).abs(), waad.new_zeros(1)])
        preplan, anchor = (self._top(x) for x in (step, influence.nan_to_num(nan=-torch.inf)))
        anchor &= ~influence.isnan()
        if self.form != "coupled":
            return 1 + self.gain * (preplan if self.form == "local" else anchor).to(waad.dtype)
        gamma = 1 + self.gain * anchor.to(waad.dtype)
        for t in (anchor & (waad <= waad.median())).nonzero().flatten().tolist():
            near = [s for s in range(max(0, t - self.before), t) if preplan[s]]
            if near:
                gamma[t] = 1 + self.gain * (1 - self.alpha)
                opener = max(near, key=lambda s: float(step[s]))
                gamma[opener] = max(float(gamma[opener]), 1 + self.gain * self.alpha)
        return gamma

    def _top(self, x: Tensor) -> Tensor:
        chosen = torch.zeros(len(x), dtype=torch.bool)
        chosen[settled(x).argsort(descending=True, stable=True)[: round(self.share * len(x))]] = True
        return chosen


def preplan_anchor(
    policy: Any, *, form: Form = "coupled", share: float = 0.4, gain: float = 0.5, alpha: float = 0.5, before: int = 3,
    near: int = 10, far: int = 50, clip: float = 0.2, minibatches: int = 16,
) -> Method:  # fmt: skip
    """form, share, gain, alpha, before (k): see above; near, far: where behind a token its influence is looked for."""
    return Method(
        on_group=[Advantage()],
        on_batch=[Rhythms(policy, near=near, far=far), Emphasise(form, share, gain, alpha, before)],
        terms=[Term("policy", Clip(clip, clip), per=token_mean)],
        minibatches=minibatches,
    )
