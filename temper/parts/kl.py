"""KL to a reference: estimators, both placements, and the controller of its coefficient.

Per sampled token, d = log π_ref − log π_θ. Placement matters. Differentiated as a loss on the policy's own samples,
E∇k1 = 0; E∇k2 = ∇KL(π_θ‖π_ref), the wanted one; E∇k3 = ∇KL(π_ref‖π_θ), the other direction. Subtracted from the
reward, where no gradient flows through it, k1 gives ∇KL(π_θ‖π_ref).  (Schulman 2020; Tang & Munos 2025, 2506.09477.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import LOGP, REWARD, TOKEN, TRAJECTORY, Column, floating
from temper.objective import Coefficient, Term
from temper.parts.logprobs import BEHAVIOUR, REFERENCE, reference_logp
from temper.parts.losses import log_ratio, straight_through
from temper.stage import Stage

Estimator = Callable[[Tensor, Tensor], Tensor]

TOKEN_REWARD = Column("token_reward", TOKEN, floating, "reward that arrives at the token, beside the trajectory's")
PENALISED = REWARD.of("penalised")


def _d(logp: Tensor, reference: Tensor) -> Tensor:
    return (reference - logp).clamp(-20, 20)


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """−d: unbiased, any sign."""
    return -_d(logp, reference)


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    """½d²: biased value, unbiased gradient."""
    return 0.5 * _d(logp, reference).square()


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """e^d − d − 1: unbiased, never negative, at most 10 (the bound has no gradient)."""
    d = _d(logp, reference)
    return (d.exp() - d - 1).clamp(max=10)


def k3_plus(logp: Tensor, reference: Tensor) -> Tensor:
    """The value of k3 with the gradient of k2: unbiased both ways."""
    return straight_through(k3(logp, reference), k2(logp, reference))


@dataclass(frozen=True)
class KL:
    """A term's loss: the estimate at every token; with `old`, times ρ = π_θ/π_old.

    ρ·k3 (DeepSeek-V3.2, arXiv 2512.02556) has the gradient of KL(π_θ‖π_ref), also off-policy.
    """

    estimator: Estimator = k3
    reference: Column = REFERENCE
    old: Column | None = None

    @property
    def reads(self) -> tuple[Column, ...]:
        return (LOGP, self.reference) + (() if self.old is None else (self.old,))

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        value = self.estimator(b[LOGP], b[self.reference])
        loss = value if self.old is None else value * log_ratio(b, self.old).exp()
        return loss, {"kl": value.detach()}


def towards(
    reference: Any | None, coef: Coefficient, loss: KL | None = None, **term: Any
) -> tuple[list[Stage], list[Term]]:
    """The stage and the term of a KL penalty in the loss; nothing without a reference."""
    if reference is None:
        return [], []
    return [reference_logp(reference)], [Term("kl", loss or KL(), coef=coef, **term)]


# in the reward --------------------------------------------------------------------------------------------------------


@dataclass
class Adaptive:
    """β ← β·(1 + clip(KL/target − 1, ±0.2)·n/horizon) after every n episodes (Ziegler et al. 2019, arXiv 1909.08593).

    Usable as a coefficient; its memory is `value`.
    """

    value: float = 0.05
    target: float = 6.0
    horizon: float = 10_000

    def __call__(self, step: int) -> float:
        return self.value

    def observe(self, kl: float, n: int) -> None:
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]


@dataclass
class KLReward:
    """TOKEN_REWARD = −β·k1 at every token, from the log-probs before the update; no gradient flows through it.

    coef  β: a number or a schedule of the calls so far; an `Adaptive` also learns the mean KL of a trajectory's tokens,
          summed (nats), and its β is part of this stage's state
    old   log-probs of the policy that sampled (behaviour) or of the learner before the update
    """

    coef: Coefficient = 0.05
    estimator: Estimator = k1
    old: Column = BEHAVIOUR
    reference: Column = REFERENCE
    calls: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    writes = (TOKEN_REWARD,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.old, self.reference)

    async def __call__(self, b: Batch) -> Batch:
        kl = self.estimator(b[self.old], b[self.reference])
        beta = self.coef(self.calls) if callable(self.coef) else self.coef
        self.calls += 1
        per_trajectory = b.sum(kl, TOKEN, TRAJECTORY).nanmean().item()
        self.metrics = {"kl_in_reward": per_trajectory, "kl_coef": beta}
        if isinstance(self.coef, Adaptive) and per_trajectory == per_trajectory:
            self.coef.observe(per_trajectory, b.size(TRAJECTORY))
        return b.put(TOKEN_REWARD, -beta * kl)

    def state_dict(self) -> dict[str, float]:
        adaptive = {"value": self.coef.value} if isinstance(self.coef, Adaptive) else {}
        return {"calls": self.calls, **adaptive}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.calls = int(state["calls"])
        if isinstance(self.coef, Adaptive):
            self.coef.value = state["value"]


@dataclass(frozen=True)
class SequencePenalty:
    """REWARD@penalised = r + Σ_t TOKEN_REWARD: the penalty as a part of the trajectory's reward (RLOO)."""

    reward: Column = REWARD
    writes = (PENALISED,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, TOKEN_REWARD)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(PENALISED, b[self.reward] + b.sum(b[TOKEN_REWARD], TOKEN, TRAJECTORY))
