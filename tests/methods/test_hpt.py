"""HPT: the gate, the exchange, one denominator for each loss; and the unified estimator."""

from __future__ import annotations

import asyncio

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TOKEN, TRAJECTORY
from temper.methods.objectives.hpt import FewRight, hpt
from temper.objective import SeqMeanTokenSumNorm
from temper.parts.gates import DEMONSTRATION
from temper.parts.losses import Surrogate
from temper.parts.sft import NLL
from tests.parts.test_demonstrations import Live, group


def through(b: Batch, **how: object) -> Batch:
    for stage in hpt(Live(), **how).on_group:  # type: ignore[arg-type]
        b = asyncio.run(stage(b))
    return b


@pytest.mark.parametrize(("gate", "right", "imitated"), [(0, 0, True), (0, 1, False), (2, 2, True), (2, 3, False)])
def test_the_gate_flips_the_loss_exactly(gate: int, right: int, imitated: bool) -> None:
    b = group([1.0] * right + [0.0] * (4 - right))
    assert FewRight(gate)(b) is imitated
    out = through(b, gate=gate)
    assert bool(out[DEMONSTRATION].all()) is imitated and out.size(TRAJECTORY) == (1 if imitated else 4)


def test_each_loss_has_its_own_rows_and_denominator() -> None:
    b = Batch.concat([through(group([0.0, 0.0])), through(group([1.0, 0.0]))])  # seven shown tokens, four sampled
    policy, imitation, entropy = hpt(None, length=10).terms
    assert policy.weights(b).tolist() == pytest.approx([0.0] * 7 + [1 / 2 / 10] * 4)
    assert imitation.weights(b).tolist() == pytest.approx([1 / 7] * 7 + [0.0] * 4)
    assert entropy.coef == 1e-3 and isinstance(policy.per, SeqMeanTokenSumNorm)
    assert b[ADVANTAGE].isnan().tolist() == [True] * 7 + [False] * 4 and bool(b[REWARD][0].isnan())


def test_a_step_without_worked_answers_has_no_imitation() -> None:
    b = through(group([1.0, 0.0]))
    imitation = hpt(None).terms[1]
    assert imitation.weights(b).tolist() == [0.0] * 4 and bool(torch.isfinite(imitation.weights(b)).all())


def test_a_task_without_worked_answer_keeps_its_attempts() -> None:
    from temper.tasks.task import Task

    assert through(group([0.0, 0.0], Task("t", "?"))).size(TRAJECTORY) == 2


def test_unified_estimator_by_its_denominator() -> None:
    """∇ = (1/π_ref)·A·∇π: π_ref = π_θ and A = 1 is imitation, π_old is PPO's, which on-policy is REINFORCE."""
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    old = torch.tensor(-1.3, dtype=torch.float64)

    def estimator(denominator: torch.Tensor, a: float) -> torch.Tensor:
        p = logits.softmax(0)[2]
        return torch.autograd.grad(a * p / denominator.detach(), logits)[0]

    def of_loss(loss: object, a: float) -> torch.Tensor:
        from tests.methods.groups import of

        b = of([(1, 1.0)]).put(LOGP, logits.log_softmax(0)[2:3]).put(ADVANTAGE, torch.tensor([a]))
        b = b.put(Surrogate().old, old[None])
        out = loss(b)  # type: ignore[operator]
        return -torch.autograd.grad((out[0] if isinstance(out, tuple) else out).sum(), logits)[0]

    p = logits.softmax(0)[2]
    assert torch.allclose(estimator(p, 1.0), of_loss(NLL(), 1.0), atol=1e-12)
    assert torch.allclose(estimator(old.exp(), 0.7), of_loss(Surrogate(), 0.7), atol=1e-6)
    assert hpt(None).terms[0].level == TOKEN
