"""KDRL: the schedule, where the teacher's term applies, and that its gradient is the reverse KL's."""

from __future__ import annotations

import asyncio

import pytest
import torch

from temper.columns import ADVANTAGE, LOGP
from temper.methods.objectives.kdrl import FALLING, TAUGHT, TEACHER, WhereItFails, kdrl
from temper.objective import Term, token_mean
from temper.parts.kl import KL, k2, k3
from temper.policy import Policy
from tests.methods.groups import of

FROZEN = Policy(name="teacher", trainable=False)


def test_weight_falls_as_in_the_paper() -> None:
    assert [FALLING(s) for s in (0, 1, 40, 80, 500)] == pytest.approx(
        [max(5e-3 - 5e-5 * s, 1e-3) for s in (0, 1, 40, 80, 500)]
    )


def test_where_it_applies() -> None:
    b = of([(1, 1.0), (1, 0.0), (1, None)], [(1, 0.0), (1, -0.5)], [(1, 1.0)])
    assert asyncio.run(WhereItFails()(b))[TAUGHT].tolist() == [False, True, False, True, True, False]
    assert asyncio.run(WhereItFails(True)(b))[TAUGHT].tolist() == [False, False, False, True, True, False]


def test_all_right_leaves_the_teacher_without_gradient_or_denominator() -> None:
    term = kdrl(None, teacher=FROZEN, apply="response").terms[1]
    b = asyncio.run(WhereItFails()(of([(2, 1.0), (1, 1.0)]))).put(TEACHER, torch.zeros(3))
    assert term.weights(b).tolist() == [0.0] * 3
    half = asyncio.run(WhereItFails()(of([(2, 1.0), (2, 0.0)]))).put(TEACHER, torch.zeros(4))
    assert term.weights(half).tolist() == [0, 0, 0.5, 0.5]


def test_a_teacher_like_the_student_teaches_nothing() -> None:
    b = of([(3, 1.0)]).put(TEACHER, torch.full((3,), -1.0))
    logp = torch.full((3,), -1.0, requires_grad=True)
    values = Term("teacher", KL(k2, TEACHER)).values(b.put(LOGP, logp))[0]
    values.sum().backward()
    assert values.tolist() == [0.0] * 3 and logp.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize(("estimator", "forward"), [(k2, False), (k3, True)])
def test_gradient_over_all_answers_is_that_of_the_kl(estimator: object, forward: bool) -> None:
    """E∇k2 = ∇KL(π_θ‖π_T), E∇k3 = ∇KL(π_T‖π_θ), enumerated on a softmax of three."""
    theta = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([0.1, 0.7, 0.2], dtype=torch.float64).log()
    logp = theta.log_softmax(0)
    mean = (logp.exp().detach() * estimator(logp, teacher)).sum()  # type: ignore[operator]
    kl = (teacher.exp() * (teacher - logp)).sum() if forward else (logp.exp() * (logp - teacher)).sum()
    one, two = (torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (mean, kl))
    assert torch.allclose(one, two, atol=1e-12)


def test_parts_of_each_form() -> None:
    plain = kdrl(None, teacher=FROZEN)
    assert [t.name for t in plain.terms] == ["policy", "teacher"] and plain.terms[1].where is None
    assert plain.terms[0].per is plain.terms[1].per is token_mean  # one denominator
    inside = kdrl(None, teacher=FROZEN, apply="in the reward")
    assert [type(s).__name__ for s in inside.on_batch] == ["Read", "KLReward", "ReturnToGo", "Whiten"]
    assert ADVANTAGE in inside.on_batch[2].writes and inside.policies == {"teacher": FROZEN}
