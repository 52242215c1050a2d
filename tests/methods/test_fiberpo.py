"""FiberPO: the gate, on-policy identity, which drift trips which scale; the group scale by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TOKEN
from temper.errors import UserError
from temper.methods.objectives.fiberpo import Fiber, GroupFiber, fiberpo, gate
from temper.objective import Term, row_mean, seq_mean_token_mean
from temper.parts.losses import GSPO, Clip
from tests.methods.groups import of


def with_ratio(b: Batch, ell: list[float], a: float = 1.0) -> tuple[Batch, Tensor]:
    """The batch whose live log-probs are the behaviour's (−1) plus ell, and these as a leaf."""
    logp = (torch.tensor(ell, dtype=torch.float64) - 1).requires_grad_()
    return b.put(LOGP, logp).put(ADVANTAGE, torch.full((b.size(TOKEN),), a)), logp


def ratio(loss: object, ell: list[float]) -> tuple[list[float], list[float]]:
    """(gated ratio, its gradient by ell) of one trajectory."""
    b, logp = with_ratio(of([(len(ell), 1.0)]), ell)
    values, _ = Term("policy", loss).values(b)  # type: ignore[arg-type]
    values.sum().backward()
    return (-values).tolist(), (-logp.grad).tolist()


def test_gate() -> None:
    x = torch.tensor([-0.5, -0.15, -0.1, 0.05, 0.1, 0.12, 0.2, 0.5])
    turned = [0.0, -0.05, -0.1, 0.05, 0.1, 0.08, 0.0, 0.0]
    assert torch.allclose(gate(x, 0.1), torch.tensor(turned), atol=1e-7)
    clamped = [-0.1, -0.1, -0.1, 0.05, 0.1, 0.1, 0.1, 0.1]
    assert torch.allclose(gate(x, 0.1, "clamp"), torch.tensor(clamped))


def test_on_policy_it_is_one_with_the_gradient_of_reinforce() -> None:
    values, slope = ratio(Fiber(), [0.0, 0.0, 0.0])
    assert values == [1.0] * 3 and slope == pytest.approx([1.0] * 3)


def test_inside_both_budgets_it_is_the_ratio() -> None:
    ell = [0.1, -0.1, 0.15, 0.05]  # mean 0.05
    values, slope = ratio(Fiber(), ell)
    assert values == pytest.approx([math.exp(x) for x in ell]) and slope == pytest.approx([math.exp(x) for x in ell])


def test_uniform_drift_trips_the_base_gate_only_and_a_spike_the_token_gate_only() -> None:
    drift = [0.15] * 4
    values, slope = ratio(Fiber(beyond="clamp"), drift)
    assert values == pytest.approx([math.exp(0.1)] * 4) and slope == pytest.approx([0.0] * 4, abs=1e-12)
    values, slope = ratio(Fiber(), drift)  # 0.15 is turned back to 0.05, and the slope to −1
    assert values == pytest.approx([math.exp(0.05)] * 4) and slope == pytest.approx([-math.exp(0.05)] * 4)
    assert ratio(Clip(), drift)[1] == pytest.approx([math.exp(0.15)] * 4)  # PPO lets it pass
    spike = [0.39, 0.0, 0.0, 0.0]  # mean 0.0975 within the budget; residuals 0.2925 and −0.0975
    values, _ = ratio(Fiber(), spike)
    assert values == pytest.approx([math.exp(0.0975 + 0.2)] + [1.0] * 3)
    assert ratio(GSPO(0.2, 0.2), spike)[0] == pytest.approx([math.exp(0.0975)] * 4)  # GSPO does not see it


def test_residuals_are_taken_against_the_raw_mean() -> None:
    values, _ = ratio(Fiber(beyond="clamp"), [0.5, 0.3])  # mean 0.4: base 0.1, residuals ±0.1, not 0.4 and 0.2
    assert values == pytest.approx([math.exp(0.2), math.exp(0.0)])


def test_trajectories_do_not_touch_each_other() -> None:
    b, logp = with_ratio(of([(2, 1.0), (2, 0.0)]), [0.3, 0.3, 0.01, 0.02])
    values, metrics = Term("policy", Fiber()).values(b)
    values[2:].sum().backward()
    assert logp.grad[:2].tolist() == [0.0, 0.0]
    assert metrics["clip_ratio/base"].tolist() == [1, 1, 0, 0] and metrics["clip_ratio/token"].tolist() == [0] * 4


def test_group_scale_by_hand() -> None:
    b, _ = with_ratio(of([(1, 1.0), (2, 0.0), (1, None)]), [0.2, 0.4, 0.2, 9.0], a=1.0)
    # judged means 0.2 and 0.3, group 0.25 -> gate(0.25; 0.15) = 0.05; residuals −0.05 and 0.05; tokens 0, ±0.1
    value = Term("policy", GroupFiber(), per=row_mean).values(b)[0]
    second = (math.exp(0.05 + 0.05 + 0.1) + math.exp(0.05 + 0.05 - 0.1)) / 2
    assert value.tolist() == pytest.approx([-(math.exp(0.0) + second) / 2])
    silent, _ = with_ratio(of([(1, None)], [(1, 1.0)]), [0.2, 0.0])
    assert Term("policy", GroupFiber(), per=row_mean).values(silent)[0].tolist() == [0.0, -1.0]


def test_group_scale_without_drift_weighs_like_the_other_form() -> None:
    b, logp = with_ratio(of([(1, 1.0), (2, 0.0)], [(3, 1.0), (1, 0.0)]), [0.0] * 7)
    plain, grouped = Term("policy", Fiber(), per=seq_mean_token_mean), Term("policy", GroupFiber(), per=row_mean)
    slopes = []
    for term in (plain, grouped):
        logp.grad = None
        (term.weights(b.put(REWARD, torch.zeros(4))) * term.values(b)[0]).sum().backward()
        slopes.append(logp.grad.tolist())
    assert slopes[0] == pytest.approx(slopes[1])


def test_budgets_are_checked_and_the_method_has_one_term() -> None:
    with pytest.raises(UserError, match="FiberPO's budget width must be above 0, got 0"):
        Fiber(width=0)
    assert fiberpo(None).terms[0].level == TOKEN and fiberpo(None, group=0.15).terms[0].level == 3
