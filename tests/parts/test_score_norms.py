"""Norms of ∇ log π against autograd."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.columns import HIDDEN, LOGP, TOKEN, TRAJECTORY
from temper.errors import UserError
from temper.models import layout
from temper.parts.logprobs import Read
from temper.parts.score_norms import GRADIENT_NORM, SCORE_NORM, GradientNorms, ScoreNorm
from tests.core.test_learner import learner, mixed


def policy_of(learner: object) -> object:
    return type("P", (), {"learner": learner})()


def test_score_norm_is_the_squared_gradient_by_the_logits() -> None:
    b, mine = mixed(), learner()
    out = asyncio.run(Read(policy_of(mine), {SCORE_NORM: ScoreNorm()})(b))[SCORE_NORM]
    live = mine._live(b)
    logits = mine.head(live[HIDDEN]).detach().requires_grad_()
    temperature = b.at(layout.TEMPERATURE, TOKEN)
    tempered = logits / torch.where(temperature > 0, temperature, torch.ones_like(temperature))[:, None]
    tempered.retain_grad()
    tempered.log_softmax(-1).gather(1, b.token_ids[:, None]).sum().backward()
    assert torch.allclose(out, tempered.grad.pow(2).sum(-1), atol=1e-12)
    assert bool((out >= 0).all() and (out <= 2).all())


def test_score_norm_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    b, mine = mixed(), learner()
    whole = mine.read(b, {SCORE_NORM: ScoreNorm()})[SCORE_NORM]
    monkeypatch.setattr(layout, "CHUNK", 200)
    assert torch.allclose(mine.read(b, {SCORE_NORM: ScoreNorm()})[SCORE_NORM], whole, atol=1e-12)


@pytest.mark.parametrize("which", ["wte", ""])
def test_gradient_norms_are_those_of_each_trajectory_alone(which: str) -> None:
    b, mine = mixed(), learner(budget=24)
    out = asyncio.run(GradientNorms(policy_of(mine), which)(b))[GRADIENT_NORM]
    meant = [p for n, p in mine.module.named_parameters() if which in n]
    for row in range(b.size(TRAJECTORY)):
        alone = b.select(torch.arange(b.size(TRAJECTORY)) == row)
        if alone.size(TOKEN) == 0:
            assert math.isnan(float(out[row]))
            continue
        by = torch.autograd.grad(mine._live(alone)[LOGP].sum(), meant, allow_unused=True)
        expected = sum(float(g.pow(2).sum()) for g in by if g is not None) ** 0.5
        assert math.isclose(float(out[row]), expected, rel_tol=1e-5), row
    assert all(p.grad is None for p in meant)


def test_weights_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match=r"no trained weight has 'embed_tokens' in its name; there are .*wte"):
        asyncio.run(GradientNorms(policy_of(learner()))(mixed()))
    with pytest.raises(UserError, match="need a learner in one process"):
        asyncio.run(GradientNorms(policy_of(object()))(mixed()))
