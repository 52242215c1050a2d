"""GRAO: the identity of its alignment part, and groups that agree."""

from __future__ import annotations

import asyncio

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, INFO, LOGP, TOKEN, TRAJECTORY
from temper.methods.objectives.grao import AlignmentAdvantage, grao
from temper.parts.gates import DEMONSTRATION
from tests.methods.groups import of
from tests.parts.test_demonstrations import Live, Long, group


def with_reference(rows: list[tuple[int, float | None]]) -> Batch:
    """The last row is the reference."""
    b = of(rows)
    return b.put(INFO, [{}] * (len(rows) - 1) + [{"demonstration": True}])


def advantages(rows: list[tuple[int, float | None]], **how: float) -> list[float]:
    b = asyncio.run(AlignmentAdvantage(**how)(with_reference(rows)))
    return b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY).tolist()


ROWS = [(1, 1.0), (2, 0.0), (1, 0.5), (2, 1.0)]  # three attempts and the reference


def test_by_hand() -> None:
    sigma = (1 / 6) ** 0.5
    z = [0.5 / sigma, -0.5 / sigma, 0.0]
    assert advantages(ROWS) == pytest.approx([1.6 * x for x in z] + [0.5 * 0.5 / sigma])
    assert advantages(ROWS, lam=0.0, beta=1.0) == pytest.approx([*z, 0.5 / sigma])


def test_the_reference_may_be_part_of_the_statistics() -> None:
    mean, sigma = 0.625, torch.tensor([1.0, 0.0, 0.5, 1.0]).std(correction=0).item()
    assert advantages(ROWS, with_reference=True, lam=0.0, beta=1.0) == pytest.approx(
        [(r - mean) / sigma for r in (1.0, 0.0, 0.5, 1.0)]
    )


def test_the_alignment_part_is_lambda_times_exploration() -> None:
    """∇ of λ·mean Â_i (E_i − S): in a complete group the reference is not moved by it."""

    def gradient(lam: float) -> torch.Tensor:
        b = asyncio.run(AlignmentAdvantage(beta=0.0, lam=lam)(with_reference(ROWS)))
        b = b.put(DEMONSTRATION, torch.tensor([False] * 4 + [True] * 2))
        logp = torch.full((b.size(TOKEN),), -1.0, dtype=torch.float64).requires_grad_()
        term = grao(None).terms[0]
        (term.weights(b) * term.values(b.put(LOGP, logp))[0]).sum().backward()
        return logp.grad

    explore, both = gradient(0.0), gradient(0.6)
    assert torch.allclose(both, 1.6 * explore, atol=1e-6) and bool((explore[:3].abs() > 0.1).all())
    assert torch.allclose(both[-2:], torch.zeros(2, dtype=torch.float64), atol=1e-6)


def test_the_gradient_is_that_of_the_objective() -> None:
    b = asyncio.run(AlignmentAdvantage()(with_reference(ROWS)))
    b = b.put(DEMONSTRATION, torch.tensor([False] * 4 + [True] * 2))
    logp = torch.randn(b.size(TOKEN), dtype=torch.float64).requires_grad_()
    term = grao(None).terms[0]
    mine = torch.autograd.grad((term.weights(b) * term.values(b.put(LOGP, logp))[0]).sum(), logp)[0]
    e = b.mean(logp, TOKEN, TRAJECTORY)
    z = torch.tensor([0.5, -0.5, 0.0, 0.5], dtype=torch.float64) / (1 / 6) ** 0.5
    j = (z[:3] * e[:3] + 0.5 * z[3] * e[3] + 0.6 * z[:3] * (e[:3] - e[3])).mean()
    assert torch.allclose(mine, -torch.autograd.grad(j, logp)[0], atol=1e-6)


def test_all_wrong_still_teaches_the_reference_and_its_pull_is_bounded() -> None:
    got = advantages([(1, 0.0), (1, 0.0), (1, 1.0)])
    assert got == pytest.approx([0.0, 0.0, 0.5 * 5.0])  # 1/0.1, capped at 5
    assert advantages([(1, 1.0), (1, 1.0), (1, 0.0)])[2] == pytest.approx(-2.5)  # pushed away
    assert advantages([(1, 1.0), (1, None), (1, 1.0)])[1] != advantages([(1, 1.0), (1, None), (1, 1.0)])[1]  # NaN


def test_as_a_method_the_reference_is_judged() -> None:
    b = asyncio.run(Long()(group([None, None])))
    for stage in grao(Live(), judges=[Long()]).on_group:
        b = asyncio.run(stage(b))
    assert b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY).tolist() == pytest.approx([0.0, 0.0, 2.5])
