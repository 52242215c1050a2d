"""Rows that cannot have a gradient are not computed, and nothing but the time that an update takes shows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from temper.backends import local
from temper.backends.base import AdamW
from temper.backends.local import LocalLearner, computed
from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, GROUP, LOGP, TEMPERATURE, TOKEN, TRAJECTORY, Column, boolean
from temper.objective import Term
from temper.parts.losses import GSPO, Clip, EntropyBonus, OffPolicyMask, Weighted
from temper.parts.ratios import TIS_WEIGHT
from tests.core import hand
from tests.core.test_learner import PerGroup, gpt2, mixed

BEHAVIOUR = LOGP.of("behaviour")
SOME, NONE = Column("some", TOKEN, boolean, "of this file"), Column("none", GROUP, boolean, "of this file")


def batch(silent: set[int]) -> Batch:
    """Ragged answers, a tree, a reset, a dialogue; no credit in some trajectories, and zeros here and there."""
    b = mixed()
    g = torch.Generator().manual_seed(3)
    a = torch.randn(b.size(TOKEN), generator=g)
    a[torch.rand(len(a), generator=g) < 0.2] = 0.0
    mute = b.spread(torch.tensor([float(j in silent) for j in range(b.size(TRAJECTORY))]), TRAJECTORY, TOKEN) > 0
    b = b.put(ADVANTAGE, a.masked_fill(mute, 0.0)).put(BEHAVIOUR, -torch.rand(len(a), generator=g) - 2.0)
    weights = torch.rand(len(a), generator=g).masked_fill(torch.rand(len(a), generator=g) < 0.3, 0.0)
    return b.put(TIS_WEIGHT, weights).put(SOME, torch.arange(len(a)) < 6)


LOSSES: dict[str, list[Term]] = {
    "clip": [Term("policy", Clip())],
    "coupled": [Term("policy", OffPolicyMask(GSPO()))],
    "weighted": [Term("policy", Weighted(Clip(), (TIS_WEIGHT,)))],
    "gated": [Term("policy", Clip()), Term("entropy", EntropyBonus(), 0.1, where=SOME)],
    "whole groups": [Term("policy", Clip()), Term("group", PerGroup(), where=NONE)],
}


def updated(b: Batch, terms: list[Term], flat: bool, budget: int = 1 << 20) -> tuple[Tensor, dict[str, float], int]:
    """(gradient, metrics, TOKEN rows that were computed)"""
    made = LocalLearner(gpt2(), AdamW(lr=0.0, clip=0.0), token_budget=budget)
    made.flat, live, rows = flat, made._live, []

    def counted(part: Batch, *args: Any) -> Batch:
        rows.append(part.size(TOKEN))
        return live(part, *args)

    made._live = counted  # type: ignore[method-assign]
    metrics = made.update(b, terms)
    return torch.cat([p.grad.flatten() for p in made.trained if p.grad is not None]), metrics, sum(rows)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("what", LOSSES)
def test_the_gradient_is_that_of_computing_everything(what: str, flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    b = batch({0, 1, 3, 8, 13})
    b = b.put(NONE, torch.zeros(b.size(GROUP), dtype=torch.bool))
    mine, metrics, rows = updated(b, LOSSES[what], flat, budget=40)
    monkeypatch.setattr(local, "computed", lambda b, *_: b)
    full, whole, every = updated(b, LOSSES[what], flat, budget=40)
    assert rows < every == b.size(TOKEN) and float(full.abs().max()) > 1e-3
    assert float((mine - full).abs().max()) <= 1e-12 * float(full.abs().max())
    assert metrics["loss"] == pytest.approx(whole["loss"], rel=1e-6) and metrics["grad_norm"] == pytest.approx(
        whole["grad_norm"], rel=1e-12
    )


def test_what_is_computed() -> None:
    policy = Term("policy", Clip())
    b = hand.ragged().put(ADVANTAGE, torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, torch.nan, 0.0]))

    def left(b: Batch, *terms: Term) -> int:
        return computed(b, [(t, t.weights(b)) for t in terms]).size(TRAJECTORY)

    assert left(b, policy) == 1  # the answer with one token of credit, whole
    b = b.put(NONE, torch.zeros(2, dtype=torch.bool))
    assert left(b, policy, Term("group", PerGroup(), where=NONE)) == 3  # its group
    assert left(b, policy, Term("entropy", EntropyBonus())) == 5  # another term learns from all
    b = b.put(SOME, torch.tensor([True] * 2 + [False] * 6))
    assert left(b, policy, Term("entropy", EntropyBonus(), where=SOME)) == 2
    assert left(b.put(ADVANTAGE, torch.zeros(8)), policy) == 1  # so that the optimiser sees zeros
    tree = hand.tree().put(ADVANTAGE, torch.tensor([0.0, 0, 1, 0, 0, 0, 0, 0]))
    assert left(tree, policy) == 3  # branches of one stem stay together


def test_metrics_say_what_they_are_means_over() -> None:
    """The first answer (2 tokens) is computed; of the others, the entropy is −log p of what was drawn at random."""
    b = hand.ragged().put(ADVANTAGE, torch.tensor([1.0, -1.0, 0, 0, 0, 0, torch.nan, 0]))
    drawn = torch.tensor([-1.0, -1.0, -2.0, -3.0, -4.0, -5.0, torch.nan, -7.0])
    hot = torch.ones(b.size(1))
    hot[int(b.structure.token_turn[7])] = 0.0  # greedy: −log p says nothing about its entropy
    b = b.put(BEHAVIOUR, drawn).put(TEMPERATURE, hot)
    made = LocalLearner(gpt2(), AdamW(lr=0.0))
    one = made.read(b, {ENTROPY.of("old"): ENTROPY, LOGP.of("old"): LOGP})
    metrics = made.update(b, [Term("policy", Clip())])
    own = one[ENTROPY.of("old")][:2].sum()
    assert metrics["entropy"] == pytest.approx(float(own + 2 + 3 + 4 + 5) / 6, rel=1e-5)
    d = (one[LOGP.of("old")] - drawn)[:2]
    assert metrics["ratio"] == pytest.approx(float(d.exp().mean()), rel=1e-5)
    assert metrics["policy_kl"] == pytest.approx(float((d.expm1() - d).mean()), rel=1e-5)


def test_a_silent_step_leaves_the_optimiser_as_zeros_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum and weight decay go on."""

    def stepped() -> Tensor:
        made = LocalLearner(gpt2(), AdamW(lr=0.1, weight_decay=0.1))
        b = hand.ragged()
        for a in (torch.ones(8), torch.zeros(8)):
            made.update(b.put(ADVANTAGE, a), [Term("policy", Clip())])
        return torch.cat([p.detach().flatten() for p in made.trained])

    mine = stepped()
    monkeypatch.setattr(local, "computed", lambda b, *_: b)
    assert torch.equal(mine, stepped())
