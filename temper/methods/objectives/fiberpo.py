"""FiberPO

Paper: JoyAI, "FiberPO", 2026, arXiv 2603.08239; used in JoyAI-LLM Flash, arXiv 2604.03044.
Hook: loss (a ratio gated at several scales: group, trajectory, token).
Claim: entropy stays and reward rises monotonically where GRPO and GSPO drift; LiveCodeBench-v6 65.6 with 7.3K tokens an
answer against 64.0 with 53.6K.

    ℓ_{i,t} = log π_θ/π_old = Σ over scales of (mean over this scale's rows − mean over the next coarser's)
    loss = −A · Π_scales exp g(residual),  aggregated over tokens, then over trajectories

g is x within the scale's budget δ. Beyond it the paper's gate turns back, so that the gradient restores; "clamp" stays
at δ, as an unofficial implementation does. The token's own residual is clamped at ±width. Residuals are taken against
the raw means, not the gated ones, which would let drift back into the finer scales.
Reconstructed: where the gate turns back (slope −1 from δ to 2δ, then 0); the default budgets.
Left out: the domain scale (a mean of live ratios over all of a step's tasks of one source would tie every micro-batch
to every other); the model's architecture and quantised training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TOKEN, TRAJECTORY, Column, Level
from temper.errors import UserError
from temper.method import Method
from temper.objective import LIVE, Term, row_mean, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Surrogate, Values, log_ratio, sequence_mean

SLUG = "fiberpo"
TITLE = "FiberPO"
PAPER = "arXiv 2603.08239"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "fiberpo"

Beyond = Literal["turn", "clamp"]


def gate(x: Tensor, budget: float, beyond: Beyond = "turn") -> Tensor:
    """x within ±budget; beyond it back towards 0 with slope −1, reached at 2·budget, or ±budget throughout."""
    if beyond == "clamp":
        return x.clamp(-budget, budget)
    return torch.where(x.abs() <= budget, x, x.sign() * (2 * budget - x.abs()).clamp(min=0))


@dataclass(frozen=True)
class Fiber(Surrogate):
    """−A·exp(g(ℓ̄_i) + clip(ℓ_{i,t} − ℓ̄_i, ±width)), ℓ̄_i the mean over the trajectory's tokens."""

    trajectory: float = 0.1
    width: float = 0.2
    beyond: Beyond = "turn"
    also: ClassVar[tuple[Column, ...]] = (LIVE,)

    def __post_init__(self) -> None:
        for name in ("trajectory", "width"):
            if getattr(self, name) <= 0:
                raise UserError(f"FiberPO's budget {name} must be above 0, got {getattr(self, name)}")

    def __call__(self, b: Batch) -> Values:
        ell = log_ratio(b, self.old)
        base = sequence_mean(b, ell)
        return self.gated(b, gate(base, self.trajectory, self.beyond), ell - base, base)

    def gated(self, b: Batch, coarse: Tensor, residual: Tensor, base: Tensor) -> Values:
        ratio = (coarse + residual.clamp(-self.width, self.width)).exp()
        outside = {"base": base.abs() > self.trajectory, "token": residual.abs() > self.width}
        metrics = {f"clip_ratio/{name}": x.to(ratio.dtype) for name, x in outside.items()}
        return -b[ADVANTAGE] * ratio, {"ratio": ratio.detach(), **metrics}


@dataclass(frozen=True)
class GroupFiber(Fiber):
    """`Fiber` with one scale more: the mean of the group's judged trajectories has the budget `group`.

    The loss of a whole group: tokens averaged in each judged trajectory, then over these.
    """

    group: float = 0.15
    level: ClassVar[Level] = GROUP
    also: ClassVar[tuple[Column, ...]] = (REWARD,)

    def __call__(self, b: Batch) -> Tensor:  # type: ignore[override]
        ell, judged = log_ratio(b, self.old), ~b[REWARD].isnan()
        mean = torch.where(judged, b.mean(ell, TOKEN, TRAJECTORY), torch.nan)
        base, coarsest = (b.spread(x.nan_to_num(nan=0.0), level, TOKEN) for x, level in (
            (mean, TRAJECTORY), (b.mean(mean, TRAJECTORY, GROUP), GROUP)
        ))  # fmt: skip
        coarse = gate(coarsest, self.group, self.beyond) + gate(base - coarsest, self.trajectory, self.beyond)
        loss, _ = self.gated(b, coarse, ell - base, base - coarsest)
        each = torch.where(judged, b.mean(loss, TOKEN, TRAJECTORY), torch.nan)
        return b.mean(each, TRAJECTORY, GROUP).nan_to_num(nan=0.0)


def fiberpo(
    policy: Any,
    *,
    trajectory: float = 0.1,
    width: float = 0.2,
    group: float | None = None,
    beyond: Beyond = "turn",
    minibatches: int = 1,
) -> Method:
    """trajectory, width, group: budgets of ℓ at these scales (group None: without that scale); beyond: see `gate`."""
    loss = Fiber(trajectory, width, beyond) if group is None else GroupFiber(trajectory, width, beyond, group)
    return Method(
        on_group=[Advantage()],
        terms=[Term("policy", loss, per=seq_mean_token_mean if group is None else row_mean)],
        minibatches=minibatches,
    )
