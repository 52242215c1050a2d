"""Policy losses: what is minimised at every sampled token, −f(ρ)·A and its relatives.

Notation: log π live; ρ = π_θ/π_old; ℓ = log ρ, within ±20 before any exp; A = ADVANTAGE; sg = stop-gradient. With one
update per batch the sampler's log-probs are the old ones, hence the default of `old`; with several mini-batches that
stays right as long as sampler and learner agree (B6 in `ratios.py` when they do not). What a loss takes over a
trajectory it takes over the tokens that its term uses. At ρ = 1 the gradient of each is REINFORCE's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, LOGP, TOKEN, TRAJECTORY, Column, floating
from temper.objective import LIVE
from temper.parts.logprobs import BEHAVIOUR

Values = tuple[Tensor, dict[str, Tensor]]
Shape = tuple[float, float]  # (k, λ) of VESPO's weight

KL_SELECTED = Column("kl_selected", TOKEN, floating, "1 where KL-Cov puts its penalty, else 0")


def log_ratio(b: Batch, old: Column) -> Tensor:
    """ℓ [tokens] = log π_θ − log π_old within ±20."""
    return (b[LOGP] - b[old]).clamp(-20, 20)


def sequence_mean(b: Batch, x: Tensor) -> Tensor:
    """[tokens] the mean of x over the term's tokens of the trajectory (of those that share the token, their mean)."""
    return _per_sequence(b, x, b.mean)


def sequence_sum(b: Batch, x: Tensor) -> Tensor:
    """[tokens] the sum of x over the term's tokens of the trajectory."""
    return _per_sequence(b, x, b.sum)


def _per_sequence(b: Batch, x: Tensor, up: Callable[..., Tensor]) -> Tensor:
    used = torch.where(b[LIVE] > 0, x, torch.full_like(x, torch.nan))
    return b.spread(up(used, TOKEN, TRAJECTORY).nan_to_num(nan=0.0), TRAJECTORY, TOKEN)


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of the first with the gradient of the second."""
    return value.detach() + gradient - gradient.detach()


@dataclass(frozen=True)
class Reinforce:
    """−A·log π (Williams 1992). Off-policy, with the weight sg(ρ): CISPO without bounds."""

    reads = (LOGP, ADVANTAGE)
    factors = (ADVANTAGE,)

    def __call__(self, b: Batch) -> Tensor:
        return -b[ADVANTAGE] * b[LOGP]


@dataclass(frozen=True)
class Surrogate:
    """−A·ρ: the unclipped surrogate, and what the losses below share. `old` is the column of log π_old."""

    _: KW_ONLY
    old: Column = BEHAVIOUR
    also: ClassVar[tuple[Column, ...]] = ()
    factors: ClassVar[tuple[Column, ...]] = (ADVANTAGE,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (LOGP, ADVANTAGE, self.old, *self.also)

    def __call__(self, b: Batch) -> Any:
        ratio = log_ratio(b, self.old).exp()
        return -b[ADVANTAGE] * ratio, {"ratio": ratio.detach()}


@dataclass(frozen=True)
class Clip(Surrogate):
    """max(−Aρ, −A·clip(ρ, 1−low, 1+high)); with `dual`, for A < 0 at most −A·dual.

    PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7); dual clip (Ye et al. 2020, arXiv 1912.09729, c = 3);
    high > low is DAPO's clip-higher (arXiv 2503.14476, eq. 10); INTELLECT-2's bound δ on ρ for A < 0 is dual = δ.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def __call__(self, b: Batch) -> Values:
        return self.clipped(log_ratio(b, self.old).exp(), b[ADVANTAGE])

    def clipped(self, ratio: Tensor, a: Tensor) -> Values:
        loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - self.low, 1 + self.high))
        if self.dual is not None:
            loss = torch.where(a < 0, torch.minimum(loss, -a * self.dual), loss)
        outside = ((ratio < 1 - self.low) & (a < 0)) | ((ratio > 1 + self.high) & (a > 0))
        return loss, {"ratio": ratio.detach(), "clip_ratio/region_mean": outside.to(ratio.dtype)}


@dataclass(frozen=True)
class GSPO(Clip):
    """Clip on the sequence ratio s_i = (π_θ(y_i)/π_old(y_i))^(1/T_i), as sg[s_i]·π/sg[π] at each token.

    GSPO (Zheng et al. 2025, arXiv 2507.18071, eqs. 5, 7 and 13). Aggregate with seq_mean_token_mean.
    """

    low: float = 3e-4
    high: float = 4e-4
    also = (LIVE,)

    def __call__(self, b: Batch) -> Values:
        mean = sequence_mean(b, log_ratio(b, self.old))
        return self.clipped(straight_through(mean, b[LOGP]).exp(), b[ADVANTAGE])


@dataclass(frozen=True)
class GMPO(Surrogate):
    """−A·(Π_t ρ̂_t)^(1/T), ρ̂_t = min(ρ_t, e^width) for A > 0 and max(ρ_t, e^−width) for A < 0.

    GMPO (Zhao et al. 2025, arXiv 2507.20673): a geometric mean of ratios, clipped token by token in log space,
    on the side that A pushes them to. Aggregate with seq_mean_token_mean.
    """

    width: float = 0.4
    also = (LIVE,)

    def __call__(self, b: Batch) -> Values:
        a = b[ADVANTAGE]
        signed = a.sign() * log_ratio(b, self.old)
        ratio = sequence_mean(b, a.sign() * signed.clamp(max=self.width)).exp()
        outside = (signed > self.width).to(ratio.dtype)
        return -a * ratio, {"ratio": ratio.detach(), "clip_ratio/region_mean": outside}


@dataclass(frozen=True)
class CISPO(Surrogate):
    """−sg(clip(ρ, lower, upper))·A·log π: the weight is clipped, no token loses its gradient.

    CISPO (MiniMax-M1 2025, arXiv 2506.13585). The paper clips from above only; the bounds are on ρ.
    """

    upper: float = 5.0
    lower: float = 0.0

    def __call__(self, b: Batch) -> Values:
        ratio = log_ratio(b, self.old).exp().detach()
        weight = ratio.clamp(self.lower, self.upper)
        return -weight * b[ADVANTAGE] * b[LOGP], {
            "ratio": ratio,
            "clip_ratio/region_mean": (ratio != weight).to(ratio.dtype),
        }


@dataclass(frozen=True)
class SAPO(Surrogate):
    """−(4/τ)·σ(τ(ρ−1))·A: a soft gate instead of a clip, with slope 1 at ρ = 1; τ by the sign of A.

    SAPO (Gao et al. 2025, arXiv 2511.20347).
    """

    positive: float = 1.0
    negative: float = 1.05

    def __call__(self, b: Batch) -> Values:
        ratio, a = log_ratio(b, self.old).exp(), b[ADVANTAGE]
        tau = torch.where(a > 0, self.positive, self.negative).to(ratio.dtype)
        return -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * a, {"ratio": ratio.detach()}


@dataclass(frozen=True)
class VESPO(Surrogate):
    """−sg(φ(W))·A·log π, φ(W) = e^λ·W^k·e^(−λW) on the sequence weight W = Π_t ρ_t, so φ(1) = 1.

    VESPO (2026, arXiv 2602.10693): W is not normalised by length; φ fades both stale (W → 0) and runaway weights.
    positive, negative  (k, λ) for A ≥ 0 and A < 0
    """

    positive: Shape = (2.0, 3.0)
    negative: Shape = (3.0, 2.0)
    also = (LIVE,)

    def __call__(self, b: Batch) -> Values:
        a = b[ADVANTAGE]
        log_w = sequence_sum(b, log_ratio(b, self.old).detach()).clamp(math.log(1e-8), 20)
        k, rate = (torch.where(a >= 0, p, n).to(log_w.dtype) for p, n in zip(self.positive, self.negative))
        phi = (rate + k * log_w - rate * log_w.exp()).exp()
        return -phi * a * b[LOGP], {"phi": phi}


@dataclass(frozen=True)
class KLCov(Surrogate):
    """−Aρ + κ·|ℓ| on the tokens that `gates.KLCovSelect` marked.

    KL-Cov (Cui et al. 2025, arXiv 2505.22617): only the tokens that would collapse the entropy are held back.
    """

    coef: float = 1.0
    selected: Column = KL_SELECTED
    factors: ClassVar[tuple[Column, ...]] = ()

    @property
    def reads(self) -> tuple[Column, ...]:
        return (*super().reads, self.selected)

    def __call__(self, b: Batch) -> Values:
        ell = log_ratio(b, self.old)
        loss = -b[ADVANTAGE] * ell.exp() + self.coef * ell.abs() * b[self.selected]
        return loss, {"ratio": ell.detach().exp()}


@dataclass(frozen=True)
class EntropyBonus:
    """−H(π(·|context)): minimising it raises the entropy of every token's distribution (nats)."""

    reads = (ENTROPY,)

    def __call__(self, b: Batch) -> Tensor:
        return -b[ENTROPY]


@dataclass(frozen=True)
class Weighted:
    """Another loss times TOKEN columns of weights, which carry no gradient and leave the denominator alone."""

    loss: Any
    weights: tuple[Column, ...]

    @property
    def reads(self) -> tuple[Column, ...]:
        return (*self.loss.reads, *self.weights)

    @property
    def factors(self) -> tuple[Column, ...]:
        return (*getattr(self.loss, "factors", ()), *self.weights)

    @property
    def modules(self) -> tuple[Any, ...]:
        return getattr(self.loss, "modules", ())

    def __call__(self, b: Batch) -> Values:
        out = self.loss(b)
        values, metrics = out if isinstance(out, tuple) else (out, {})
        for column in self.weights:
            values = values * b[column].detach()
        return values, metrics


@dataclass(frozen=True)
class OffPolicyMask:
    """Another loss, but 0 for tokens with A < 0 of trajectories that the policy has drifted away from.

    M = 0 if A < 0 and mean_t(log π_behaviour − log π_θ) > delta, else 1 (DeepSeek-V3.2 2025, arXiv 2512.02556):
    a mistake that the policy would hardly make any more teaches nothing. The denominator keeps the masked tokens.
    """

    loss: Any
    delta: float = 0.5
    behaviour: Column = BEHAVIOUR

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys((*self.loss.reads, LOGP, ADVANTAGE, LIVE, self.behaviour)))

    @property
    def factors(self) -> tuple[Column, ...]:
        return getattr(self.loss, "factors", ())

    def __call__(self, b: Batch) -> Values:
        out = self.loss(b)
        values, metrics = out if isinstance(out, tuple) else (out, {})
        drift = sequence_mean(b, (b[self.behaviour] - b[LOGP]).detach())
        dropped = (b[ADVANTAGE] < 0) & (drift > self.delta)
        masked = torch.where(dropped, torch.zeros_like(values), values)
        return masked, {**metrics, "off_policy_masked": dropped.to(values.dtype)}
