"""RL-PLUS: the weight of a worked answer's tokens, by hand and at its bounds."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.columns import ADVANTAGE, LOGP, REWARD, TRAJECTORY
from temper.methods.objectives.rl_plus import rl_plus
from temper.objective import Term
from temper.parts.gates import DEMONSTRATION
from temper.parts.hybrid import Hybrid
from temper.parts.logprobs import OLD
from tests.methods.groups import of
from tests.parts.test_demonstrations import Live, Long, group


def weights(
    p: list[float], before: list[float], shown: list[bool], gamma: float = 0.5
) -> tuple[list[float], list[float]]:
    """(−loss, its gradient by log π) for A = 1."""
    b = of([(len(p), 1.0)]).put(ADVANTAGE, torch.ones(len(p))).put(DEMONSTRATION, torch.tensor(shown))
    logp = torch.tensor(p, dtype=torch.float64).log().requires_grad_()
    b = b.put(LOGP, logp).put(OLD, torch.tensor(before, dtype=torch.float64).log())
    values = -Term("policy", Hybrid(gamma)).values(b)[0]
    values.sum().backward()
    return values.tolist(), logp.grad.tolist()


def test_attempts_have_an_unclipped_ratio() -> None:
    values, slope = weights([0.5, 0.9], [0.1, 0.9], [False, False])
    assert values == pytest.approx([5.0, 1.0]) and slope == pytest.approx([5.0, 1.0])


def test_worked_answers_by_hand() -> None:
    values, slope = weights([0.5, 0.2], [0.5, 0.4], [True, True])
    m = [2 * 0.5 / (0.75 + 0.5), 2 * 0.2 / (0.6 + 0.5)]
    expected = [m[0] * math.sqrt(0.5), m[1] * math.sqrt(0.8)]
    assert values == pytest.approx(expected)
    assert slope == pytest.approx(expected)  # only m carries the gradient, and dm/dlog π = m


def test_bounds_of_the_weight() -> None:
    p = [1e-9, 0.25, 0.5, 1.0]
    values, _ = weights(p, p, [True] * 4, gamma=0.0)  # π_θ = π_old: at most 1, and 1 only where π = 1
    assert all(v <= 1 for v in values) and values[3] == pytest.approx(1.0) and values[2] == pytest.approx(0.8)
    values, _ = weights([1.0, 1.0], [1e-12, 0.1], [True] * 2, gamma=0.0)
    assert values == pytest.approx([4.0, 2 / 0.65])  # never above 4, where ρ would be 1e12
    values, slope = weights([1.0], [1.0], [True])
    assert values == [0.0] and slope == [0.0]  # nothing left to learn of a certain token


def test_the_worked_answer_is_judged_and_counts_in_the_mean() -> None:
    made = rl_plus(Live(), judges=[Long()])
    b = asyncio.run(Long()(group([None, None, None])))
    for stage in made.on_group:
        b = asyncio.run(stage(b))
    assert b[REWARD].tolist() == [0, 0, 0, 1]
    a = b.mean(b[ADVANTAGE], 0, TRAJECTORY)
    assert a.tolist() == pytest.approx([-0.25, -0.25, -0.25, 0.75])


def test_a_wrong_worked_answer_is_pushed_away() -> None:
    class Short(Long):
        async def __call__(self, b):  # type: ignore[no-untyped-def]
            b = await super().__call__(b)
            return b.put(REWARD, 1 - b[REWARD])

    b = asyncio.run(Short()(group([None, None])))
    for stage in rl_plus(Live(), judges=[Short()]).on_group:
        b = asyncio.run(stage(b))
    assert b[REWARD].tolist() == [1, 1, 0] and float(b.mean(b[ADVANTAGE], 0, TRAJECTORY)[2]) < 0


def test_its_terms() -> None:
    assert [t.name for t in rl_plus(None).terms] == ["policy", "entropy"]
    assert [t.name for t in rl_plus(None, entropy=0.0).terms] == ["policy"]
