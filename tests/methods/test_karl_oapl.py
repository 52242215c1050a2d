"""OAPL: where its loss is zero, its soft value at both ends, and what it leaves alone."""

from __future__ import annotations

import asyncio

import pytest
import torch

from temper.columns import LOGP, TOKEN
from temper.errors import UserError
from temper.methods.objectives.karl_oapl import TARGET, Regression, SoftValue, karl_oapl
from temper.objective import Term, row_mean
from temper.parts.logprobs import BEHAVIOUR
from tests.methods.groups import of


def targets(beta: float, rows: list[tuple[int, float | None]]) -> list[float]:
    return asyncio.run(SoftValue(beta)(of(rows)))[TARGET].tolist()


def test_soft_value_by_hand_and_at_both_ends() -> None:
    rows = [(1, 1.0), (1, 0.0)]
    value = float(torch.tensor([1.0, 0.0]).exp().mean().log())
    assert targets(1.0, rows) == pytest.approx([1 - value, -value])
    assert targets(1e6, rows) == pytest.approx([0.5, -0.5], abs=1e-4)  # the mean
    assert targets(1e-3, rows) == pytest.approx([0.0, -1.0], abs=1e-3)  # the best
    assert targets(1e-3, [(1, 500.0), (1, 0.0)])[0] == pytest.approx(0.0, abs=1e-2)  # no overflow


def test_unjudged_attempts_are_no_rows_of_the_term() -> None:
    b = asyncio.run(SoftValue()(of([(1, 1.0), (2, None), (1, 0.0)])))
    assert bool(b[TARGET][1].isnan())
    b = b.put(LOGP, torch.full((4,), -0.5))
    assert Term("policy", Regression(), per=row_mean).weights(b).tolist() == [0.5, 0.0, 0.5]


def test_loss_and_gradient_by_hand() -> None:
    b = of([(2, 1.0), (1, 0.0)]).put(TARGET, torch.tensor([0.4, -0.6]))
    logp = torch.tensor([-0.5, -1.0, -2.0], requires_grad=True)  # drift 0.5 + 0, −1
    values = Term("policy", Regression(beta=2.0), per=row_mean).values(b.put(LOGP, logp))[0]
    values.sum().backward()
    assert values.tolist() == pytest.approx([(2 * 0.5 - 0.4) ** 2, (-2 + 0.6) ** 2])
    assert logp.grad.tolist() == pytest.approx([2 * 2 * 0.6, 2 * 2 * 0.6, 2 * 2 * -1.4])


def test_it_is_zero_at_the_regularised_optimum_for_any_sampling() -> None:
    """π ∝ π_b exp(r/β) with V = β log Σ π_b exp(r/β), whatever answers happen to be drawn."""
    beta, base = 0.5, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    r = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    tilted = base * (r / beta).exp()
    best, value = (tilted / tilted.sum()).log(), beta * tilted.sum().log()
    for drawn in ([0, 0, 1], [2, 2, 2], [1, 2, 0]):
        b = of([(1, float(r[y])) for y in drawn])
        b = b.put(BEHAVIOUR, base.log()[drawn]).put(LOGP, best[drawn]).put(TARGET, r[drawn] - value)
        assert Regression(beta)(b)[0].tolist() == pytest.approx([0.0] * 3, abs=1e-20)


def test_stale_data_teach_where_a_clipped_ratio_does_not() -> None:
    """Behaviour log-probs far from the policy's: PPO's clip has no gradient left, the regression has."""
    from temper.columns import ADVANTAGE
    from temper.parts.losses import Clip

    b = of([(1, 1.0), (1, 0.0)]).put(TARGET, torch.tensor([0.5, -0.5])).put(ADVANTAGE, torch.tensor([1.0, -1.0]))
    for loss, moves in ((Clip(), False), (Regression(), True)):
        logp = torch.tensor([1.0, -4.0], requires_grad=True)  # ratios e² and e⁻³
        Term("policy", loss).values(b.put(LOGP, logp))[0].sum().backward()
        assert (float(logp.grad.abs().sum()) > 0) is moves


def test_settings() -> None:
    with pytest.raises(UserError, match="must be above 0, got 0"):
        SoftValue(0.0)
    made = karl_oapl(None)
    assert made.minibatches == 16 and made.signal is not None and made.terms[0].level != TOKEN
