"""Tsallis GARL and PAFT

Paper: "How Fast Should a Model Commit to Supervision? Training Reasoning Models on the Tsallis Loss Continuum", 2026,
arXiv 2604.25907.
Hook: rollout (thinking is cut, the gold answer put behind it), advantage (a coefficient for each token), loss.
Claim: from a cold start on FinQA pass@1 is 30.5 with q = 0.75 and 21.9 with q = 1, where GRPO and q ≤ 0.5 stay at 0;
from a warm one GARL with q = 0.25 has 38.7 (GRPO 26.9), PAFT with q = 0.75 47.9 on HotPotQA (33.5).

    P = Σ_z p(z, y*|x);  ℓ_q = (1 − P^{1−q})/(1 − q);  ∇ℓ_q = P^{−q}∇ℓ_0 = P^{1−q}∇ℓ_1: q = 0 reinforces, q = 1 imitates
    w_m = p(y*|x, z_m), w̄ their mean, w̄_{−m} the mean of the others;  M rationales z_m
    GARL  −(1/M) Σ_m [(w_m/w̄^q − w̄_{−m}^{1−q}) ∇log p(z_m) + (w_m/w̄^q) ∇log p(y*|z_m)]
    PAFT  −w̄^{1−q} (1/M) Σ_k ∇log p(z_k, y*), k drawn M times ∝ w;  both over M^q

Weights are taken in log space; a group with w̄ = 0 has no credit. The expectation of PAFT over its draw is GARL without
the baseline, exactly.
Left out: nothing. Thinking ends at `end` or where it was cut, which is then forced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from temper import streams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, REQUEST, TOKEN, TRAJECTORY
from temper.method import Method
from temper.objective import Term, seq_mean_token_sum
from temper.parts.gates import DEMONSTRATION, MarkDemonstrations
from temper.parts.gold import GoldBehind
from temper.parts.logprobs import OLD, old_logp
from temper.parts.losses import Reinforce

SLUG = "tsallis-garl-paft"
TITLE = "Tsallis GARL and PAFT"
PAPER = "arXiv 2604.25907"
FAMILY = "objectives"
HOOKS = ("rollout", "advantage", "loss")
RECIPE = "tsallis-garl-paft"


@dataclass
class TsallisCredit:
    """ADVANTAGE of thinking and answer tokens, from log w = Σ log π_old of the answer's tokens."""

    q: float = 0.75
    form: Literal["garl", "paft"] = "garl"
    seed: int = 0
    reads = (OLD, DEMONSTRATION, REQUEST)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        shown = b[DEMONSTRATION]
        logw = b.sum(torch.where(shown, b[OLD], 0.0).double(), TOKEN, TRAJECTORY)
        think, answer = torch.zeros_like(logw), torch.zeros_like(logw)
        for g, request in enumerate(b[REQUEST]):
            mine = (b.structure.group == g).nonzero().flatten()
            draw = streams.key(self.seed, "paft", request)
            think[mine], answer[mine] = self.coefficients(logw[mine], draw)
        up = [b.spread(x, TRAJECTORY, TOKEN) for x in (think, answer)]
        return b.put(ADVANTAGE, torch.where(shown, up[1], up[0]).to(torch.float32))

    def coefficients(self, logw: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """(of thinking, of answer) [M], times 1/M^q; per token they are divided by M where attempts are averaged."""
        m = len(logw)
        logmean = torch.logsumexp(logw, 0) - torch.tensor(float(m)).log()
        if not bool(torch.isfinite(logmean)):
            return torch.zeros_like(logw), torch.zeros_like(logw)
        scale = float(m) ** -self.q
        if self.form == "paft":
            p = (logw - torch.logsumexp(logw, 0)).exp().numpy()
            count = torch.from_numpy(streams.generator(draw).multinomial(m, p / p.sum())).to(logw.dtype)
            drawn = scale * ((1 - self.q) * logmean).exp() * count
            return drawn, drawn
        path = scale * (logw - self.q * logmean).exp()
        w = logw.exp()
        others = (w.sum() - w).clamp(min=0) / max(m - 1, 1)
        return path - scale * (others ** (1 - self.q) if m > 1 else torch.zeros_like(w)), path


def tsallis_garl_paft(
    policy: Any, *, q: float = 0.75, form: Literal["garl", "paft"] = "garl", end: str = "</think>", seed: int = 0
) -> Method:
    """q: 0 reinforces, 1 imitates; form: garl or paft; end: the text that ends thinking."""
    return Method(
        on_group=[GoldBehind(policy, end), MarkDemonstrations()],
        on_batch=[old_logp(policy), TsallisCredit(q, form, seed)],
        terms=[Term("policy", Reinforce(), per=seq_mean_token_sum)],
    )
