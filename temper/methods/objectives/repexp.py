"""RepExp

Paper: Tuyls et al., "Representation-Based Exploration for Language Models: From Test-Time to Post-Training", 2025,
arXiv 2510.11686; code jens321/rep-exp.
Hook: reward (a bonus for answers whose representation is unlike the group's others).
Claim: with it pass@80 on AIME 2024 is what GRPO has at 256; at test time, choosing by it needs half the verifier's
calls.

    h_i = mean over the answer's tokens of the frozen start's hidden state, randomly projected, less the group's mean
    Λ = λI + Σ_j h_j h_jᵀ;  bonus_i = h_iᵀ Λ⁻¹ h_i, its own sample in Λ or (leave_one_out) not
    reward = r + c·bonus in groups with a right answer; GRPO's z-score behind it

With few answers and ‖h‖² ≫ λ every centred row has leverage 1 − 1/G, and only noise is left: h is divided by the
batch's mean norm, and the spread of the bonus is a metric. `coreset` chooses k of n answers by the same bonus, before
any is verified.
Left out: Λ kept for a task over the run; gates by the share of right answers other than none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from temper import streams
from temper.carrier import Batch
from temper.columns import ALLOWED, GROUP, HIDDEN, REWARD, SUPPORT, TEMPERATURE, TOKEN, TRAJECTORY, Column, floating
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED
from temper.stage import Counted

SLUG = "repexp"
TITLE = "RepExp"
PAPER = "arXiv 2510.11686"
FAMILY = "objectives"
HOOKS = ("reward",)
RECIPE = "repexp"

PROJECTED = Column("projected", TOKEN, floating, "[tokens, d] random projection of the hidden state")


@dataclass(frozen=True)
class Project:
    """HIDDEN times a sparse random matrix: entries ±√(3/d) with probability 1/6 each, else 0 (Achlioptas)."""

    width: int
    key: int

    def __call__(self, b: Batch) -> Tensor:
        h = b[HIDDEN].double()
        draw = streams.generator(self.key, "projection").choice(
            [-1.0, 0.0, 1.0], (h.shape[1], self.width), p=[1 / 6, 2 / 3, 1 / 6]
        )
        return h @ (torch.from_numpy(draw).to(h.device) * (3 / self.width) ** 0.5)


def leverage(h: Tensor, lam: float, leave_one_out: bool = False) -> Tensor:
    """[n] h_iᵀ(λI + Σ_j h_j h_jᵀ)⁻¹h_i of h [n, d]; j ≠ i by the Sherman–Morrison formula where it is left out."""
    inverse = torch.linalg.inv(lam * torch.eye(h.shape[1], dtype=h.dtype) + h.T @ h)
    own = (h @ inverse * h).sum(1)
    return own / (1 - own).clamp(min=1e-9) if leave_one_out else own


def coreset(h: Tensor, k: int, lam: float = 0.01) -> list[int]:
    """k rows of h [n, d], one after another the one that is least like those chosen before."""
    chosen: list[int] = []
    h = h.double() - h.double().mean(0)
    for _ in range(min(k, len(h))):
        inverse = torch.linalg.inv(lam * torch.eye(h.shape[1], dtype=h.dtype) + h[chosen].T @ h[chosen])
        novelty = (h @ inverse * h).sum(1)
        novelty[chosen] = -torch.inf
        chosen.append(int(novelty.argmax()))
    return chosen


@dataclass
class RepresentationBonus(Counted):
    """SHAPED = r + coef·bonus. The projection is drawn anew with every call."""

    base: Any
    coef: float = 0.01
    width: int = 32
    lam: float = 0.01
    leave_one_out: bool = False
    seed: int = 0
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    kind = "features"
    reads = (REWARD,)
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        project = Project(self.width, streams.key(self.seed, "repexp", self.calls))
        self.calls += 1
        read = self.base.learner.read(b, {PROJECTED: project})
        h = b.mean(read[PROJECTED], TOKEN, TRAJECTORY).nan_to_num(nan=0.0)
        h = h / h.norm(dim=1).mean().clamp(min=1e-12)
        bonus = torch.zeros(len(h), dtype=h.dtype)
        for g in range(b.size(GROUP)):
            mine = b.structure.group == g
            if bool((b[REWARD][mine] > 0).any()):
                bonus[mine] = leverage(h[mine] - h[mine].mean(0), self.lam, self.leave_one_out)
        self.metrics = {"exploration/bonus": float(bonus.mean()), "exploration/spread": float(bonus.std(correction=0))}
        return b.put(SHAPED, b[REWARD] + self.coef * bonus.to(b[REWARD].dtype))


def repexp(
    policy: Any, *, base: Any, coef: float = 0.01, width: int = 32, lam: float = 0.01, leave_one_out: bool = False,
    clip: float = 0.2, seed: int = 0, minibatches: int = 1,
) -> Method:  # fmt: skip
    """base: the frozen start, whose hidden states are read; coef: c; width: d of the projection; lam: λ."""
    return Method(
        on_batch=[RepresentationBonus(base, coef, width, lam, leave_one_out, seed), Advantage(reward=SHAPED)],
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean)],
        minibatches=minibatches,
        policies={"base": base},
    )
