"""QwenLong-L1: phases by the length of prompts, the retrospective share, and the larger of two rewards."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
import torch

from temper.carrier import Batch
from temper.columns import REWARD
from temper.errors import UserError
from temper.methods.objectives.qwenlong_l1 import EITHER, Either, qwenlong_l1
from temper.parts.domains import Phased
from temper.tasks.task import Task
from tests.core.hand import chain
from tests.methods.groups import of

TASKS = [Task(f"{n}/{k}", "x" * n) for n in (10, 20, 30, 99) for k in range(4)]


def played(task: Task, r: float) -> Batch:
    return Batch.of([chain(task, "1", 1, r)])


def test_prompts_beyond_the_cap_never_appear() -> None:
    curriculum = Phased(TASKS, (10, 30), requests=12, attempts=2, retrospective=0.0)
    first = curriculum.next(12)
    assert {len(r.task.prompt) for r in first} == {10} and curriculum.phase == 1
    later = curriculum.next(60)
    assert {len(r.task.prompt) for r in later} == {10, 20, 30} and all(r.attempts == 2 for r in later)


def test_hard_tasks_come_again_in_proportion_to_one_over_their_reward() -> None:
    curriculum = Phased(TASKS, (10, 30), requests=4, retrospective=0.5, seed=1)
    for request, r in zip(curriculum.next(4), (0.1, 0.5, 1.0, 1.0)):
        curriculum.observe(played(request.task, r))
    hard = {i: m for i, m in curriculum.means.items() if m < 1}
    asked = curriculum.next(4000)
    counts = Counter(r.task.id for r in asked if r.task.id in hard)
    plain = 4000 * 0.5 / 12  # each of the twelve tasks of both phases in the plain order
    extra = {i: counts[i] - plain for i in hard}
    assert sum(extra.values()) == pytest.approx(2000, rel=0.08)
    low, high = (next(i for i, m in hard.items() if m == x) for x in (pytest.approx(0.1), pytest.approx(0.5)))
    assert extra[low] / extra[high] == pytest.approx(5.0, rel=0.15)


def test_state_goes_on_in_a_resumed_run() -> None:
    one, two = (Phased(TASKS, (10, 30), 3, retrospective=0.5) for _ in range(2))
    for request in one.next(5):
        one.observe(played(request.task, 0.2))
    two.load_state_dict(one.state_dict())
    assert [r.task.id for r in one.next(20)] == [r.task.id for r in two.next(20)]


@pytest.mark.parametrize(
    ("caps", "why"), [((30, 10), "must rise, got 30, 10"), ((5, 10), "at most 5 characters"), ((), "got none")]
)
def test_what_cannot_be_a_phase(caps: tuple[int, ...], why: str) -> None:
    with pytest.raises(UserError, match=why):
        Phased(TASKS, caps, 3)


def test_the_larger_reward_counts_and_a_judge_that_fails_leaves_the_rule() -> None:
    b = of([(1, 0.0), (1, 0.0), (1, 0.0), (1, 0.0)])
    b = b.put(REWARD.of("rule"), torch.tensor([0.0, 1.0, 0.0, math.nan]))
    b = b.put(REWARD.of("judge"), torch.tensor([1.0, 0.0, math.nan, math.nan]))
    out = asyncio.run(Either(("rule", "judge"))(b))[EITHER]
    assert out[:3].tolist() == [1.0, 1.0, 0.0] and bool(out[3].isnan())


def test_dynamic_sampling_looks_at_the_combined_reward() -> None:
    made = qwenlong_l1(None, parts=("rule", "judge"))
    assert made.signal.reward == EITHER and qwenlong_l1(None).signal.reward == REWARD  # type: ignore[union-attr]
