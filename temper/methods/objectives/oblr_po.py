"""OBLR-PO

Paper: "OBLR-PO: A Theoretical Framework for Stable Reinforcement Learning", 2025, arXiv 2511.23310.
Hook: advantage (the baseline with the least variance), optimiser (a learning rate that follows the signal).
Claim: lower variance and smoother curves than with the mean as baseline; gains on mathematics with Qwen3-4B and
8B-Base.

    b*(x) = E[‖s‖² r] / E[‖s‖²],  s = ∇ log π(y);   A_i = r_i − Σ_{j≠i} ‖s_j‖² r_j / Σ_{j≠i} ‖s_j‖²
    η_t = η_0 · ‖ḡ‖² / (‖ḡ‖² + Var ĝ), in (0, 1] of the base rate

Reconstructed: leaving one's own sample out, without which the estimate is biased; ‖s‖² by logits, Σ_t 1 − 2π(y_t) +
Σ_v π_v² (it grows with length only as far as tokens are uncertain: by length alone it would be OPO); ḡ and the
variance from Adam's own moments, ‖m‖² less its share of noise, over Σ v, so that a checkpoint holds them. The factor
comes after Adam's step.
Left out: the smoothness constant, which belongs to the base rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import GROUP, TOKEN, TRAJECTORY
from temper.errors import UserError
from temper.method import Method
from temper.objective import Term, Update, seq_mean_token_sum
from temper.parts.advantages import Advantage, unscaled
from temper.parts.logprobs import Read
from temper.parts.losses import Surrogate
from temper.parts.score_norms import SCORE_NORM, ScoreNorm

SLUG = "oblr-po"
TITLE = "OBLR-PO"
PAPER = "arXiv 2511.23310"
FAMILY = "objectives"
HOOKS = ("advantage", "optimiser")
RECIPE = "oblr-po"


@dataclass(frozen=True)
class OptimalBaseline:
    """Σ_{j≠i} w_j r_j / Σ_{j≠i} w_j over the group's judged attempts; r_i itself where there is no other."""

    reads = (SCORE_NORM,)

    def __call__(self, b: Batch, r: Tensor) -> Tensor:
        w = b.sum(b[SCORE_NORM], TOKEN, TRAJECTORY).to(r.dtype)
        w = w.masked_fill(r.isnan(), 0.0)
        wr = w * r.nan_to_num(nan=0.0)
        others, weighed = (b.spread(b.sum(x, TRAJECTORY, GROUP), GROUP, TRAJECTORY) - x for x in (w, wr))
        return (weighed / others.clamp(min=1e-12)).where(others > 1e-12, r)


@dataclass
class SignalToNoise:
    """The factor of the learning rate: a hook after every optimiser step, and a schedule. Its memory is `factor`."""

    base: Callable[[int], float]
    floor: float = 0.05
    factor: float = 1.0

    def __call__(self, step: Any, update: Update | None = None) -> Any:
        if update is None:
            return self.base(step) * self.factor
        optimizer = getattr(update.policy.learner, "optimizer", None)
        if optimizer is None:
            raise UserError("the learning rate by signal and noise needs a learner in one process: give snr=False")
        first, second = (optimizer.param_groups[0]["betas"][k] for k in (0, 1))
        states = [s for s in optimizer.state.values() if "exp_avg" in s]
        n = float(states[0]["step"]) if states else 0.0
        if n > 1:
            mean = sum(float(s["exp_avg"].double().square().sum()) for s in states) / (1 - first**n) ** 2
            total = sum(float(s["exp_avg_sq"].double().sum()) for s in states) / (1 - second**n)
            self.factor = min(max(signal_share(mean, total, first, n), self.floor), 1.0)
        return None

    def state_dict(self) -> dict[str, float]:
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.factor = state["factor"]


def signal_share(mean: float, total: float, beta: float, n: float) -> float:
    """‖ḡ‖²/E‖ĝ‖² from ‖m̂‖² and E‖ĝ‖²: m̂ averages n gradients with weights ∝ βᵏ, whose squares sum to c."""
    c = (1 - beta) / (1 + beta) * (1 + beta**n) / (1 - beta**n)
    return (mean / max(total, 1e-30) - c) / (1 - c) if c < 1 else 1.0


def oblr_po(policy: Any, *, snr: bool = True, floor: float = 0.05, minibatches: int = 1) -> Method:
    """snr: the learning rate follows the signal, down to `floor` of what it would be."""
    after: list[Callable[..., None]] = []
    if snr:
        follow = SignalToNoise(policy.optimizer.rate, floor)
        policy.optimizer = replace(policy.optimizer, lr=follow)
        after = [follow]
    return Method(
        on_batch=[Read(policy, {SCORE_NORM: ScoreNorm()}), Advantage(OptimalBaseline(), unscaled)],
        terms=[Term("policy", Surrogate(), per=seq_mean_token_sum)],
        after=after,
        minibatches=minibatches,
    )
