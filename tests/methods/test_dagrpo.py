"""DaGRPO: which attempts count, and that a noisy verdict on twins pushes nothing."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN, TRAJECTORY
from temper.methods.objectives.dagrpo import DISTINCT, Distinct, dagrpo, likeness
from temper.parts.advantages import Advantage
from temper.tasks.task import Task
from tests.methods.test_outcome_exploration import answered
from tests.parts.test_demonstrations import Live, Long, group


def kept(scores: list[float], rewards: list[float], delta: float = 0.2) -> list[bool]:
    b = answered([str(c) for c in scores], rewards)
    out = asyncio.run(Distinct(delta, lambda task, text: float(text))(b))
    return (~out[DISTINCT].isnan()).tolist()


@pytest.mark.parametrize(
    ("scores", "rewards", "counts"),
    [
        ([0.9, 0.1], [1.0, 0.0], [True, True]),
        ([0.5, 0.45], [1.0, 0.0], [False, False]),  # twins with different verdicts
        ([0.9, 0.85, 0.1], [1.0, 0.0, 0.0], [True, False, True]),  # 0.85 is like the right one
        ([0.9, 0.8, 0.85], [1.0, 1.0, 0.0], [False, False, False]),
        ([0.9, 0.1, 0.5], [1.0, 1.0, 1.0], [False, False, False]),  # nobody on the other side
        ([0.5, 0.5, 0.1], [1.0, 0.0, 0.5], [False, False, False]),  # 0.5 is the mean itself: on no side
        ([0.7, 0.5], [1.0, 0.0], [True, True]),  # δ itself is enough
    ],
)
def test_which_attempts_count(scores: list[float], rewards: list[float], counts: list[bool]) -> None:
    assert kept(scores, rewards, 0.2 - 1e-6) == counts


def test_statistics_are_taken_over_those_that_count() -> None:
    b = answered(["0.9", "0.85", "0.1"], [1.0, 0.0, 0.0])
    out = asyncio.run(Advantage(reward=DISTINCT)(asyncio.run(Distinct(0.2, lambda task, text: float(text))(b))))
    a = out.mean(out[ADVANTAGE], TOKEN, TRAJECTORY).tolist()
    assert a[0] == pytest.approx(2**-0.5, abs=1e-4) and a[2] == pytest.approx(-(2**-0.5), abs=1e-4) and math.isnan(a[1])


def test_twins_with_a_mistaken_verdict_push_nothing() -> None:
    texts, task = ["3+4=7 7", "3+4=7 8"], Task("t", "?", "7", info={"solution": "3+4=7 7"})
    b = answered(texts, [1.0, 0.0])
    scorer = lambda _, text: likeness(task, text)  # noqa: E731
    unmasked = asyncio.run(Advantage()(b))
    assert unmasked[ADVANTAGE].tolist() == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-4)
    masked = asyncio.run(Advantage(reward=DISTINCT)(asyncio.run(Distinct(0.2, scorer)(b))))
    assert bool(masked[ADVANTAGE].isnan().all())
    assert likeness(task, texts[0]) == 1.0 and likeness(task, texts[1]) > 0.8


def through(b: Batch, **how: object) -> Batch:
    for stage in dagrpo(Live(), judges=[Long()], **how).on_group:  # type: ignore[arg-type]
        b = asyncio.run(stage(b))
    return b


def test_all_wrong_brings_an_anchor_that_counts_and_pulls() -> None:
    b = through(group([0.0, 0.0]), scorer=lambda task, text: float(len(text) > 3))
    a = b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY)
    assert b.size(TRAJECTORY) == 3 and float(a[2]) > 0 > float(a[0])
    alone = through(group([0.0, 0.0]), anchors=False)
    assert alone.size(TRAJECTORY) == 2 and bool(alone[ADVANTAGE].isnan().all())


def test_right_attempts_need_no_anchor() -> None:
    assert through(group([1.0, 0.0])).size(TRAJECTORY) == 2
    assert torch.isnan(through(group([1.0, 0.0]))[ADVANTAGE]).all()  # "so" and "so" are twins
