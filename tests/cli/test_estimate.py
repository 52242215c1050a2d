"""The estimate before a run: its arithmetic, by hand, on measurements that are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from temper.cli import estimate as e
from temper.cli.estimate import Trial


def a_run(groups: int = 8, **policy: Any) -> Any:
    """8 groups of 4, 2 optimiser steps of 4 groups, 10 steps, 2 evaluations of 6 × 2 attempts."""
    seat = SimpleNamespace(token_budget=10_000, max_rows=1024, **policy)
    probe = SimpleNamespace(tasks=[None] * 6, attempts=2, due=lambda step, steps: step in (0, steps))
    update = SimpleNamespace(policy=seat, epochs=1, minibatches=2)
    return SimpleNamespace(groups=groups, steps=10, updates=[update], roles={"solver": seat}, probes=[probe])


def a_trial(**fields: Any) -> Trial:
    """2 of 8 groups were played: 8 attempts of 50 tokens behind 10."""
    rollout, update = [(1, 9.0), (1, 1.0), (2, 1.5)], [(1, 200, 9.0), (1, 200, 0.5), (2, 400, 1.0)]
    return Trial(rollout, update, stages=0.2, rest=0.1, mean=50.0, cap=100, context=10.0, **fields)


def test_a_straight_line_goes_on_from_the_last_two() -> None:
    assert e._line([(1, 1.0), (2, 1.5)], 8) == pytest.approx(1.5 + 0.5 * 6)
    assert e._line([(1, 1.0), (8, 3.0)], 8) == 3.0  # measured
    assert e._line([(4, 2.0)], 8) == pytest.approx(4.0)
    assert e._line([(1, 2.0), (2, 1.5)], 8) == 1.5  # noise: more groups never cost less than nothing


def test_a_step_of_the_optimiser_and_a_token_explain_both_updates() -> None:
    fixed, each = 0.3, 0.001
    points = [(1, 100, fixed + 100 * each), (4, 1600, 4 * fixed + 1600 * each)]
    assert e._costs(points) == pytest.approx((fixed, each))
    assert e._costs([(1, 100, 1.0), (2, 200, 2.0)]) == pytest.approx((0.0, 0.01))  # cannot be told apart
    assert e._costs([(1, 100, 0.1), (1, 1000, 2.0)]) == pytest.approx((0.0, 0.002))  # never negative


def test_a_step_and_the_whole() -> None:
    made = e.estimate(a_run(), a_trial(), 50.0)
    assert (made.rollout, made.stages, made.rest) == pytest.approx((4.5, 0.8, 0.1))
    assert made.update == pytest.approx(1600 * 1.0 / 400)  # 8 groups × 4 × 50 tokens
    assert made.evaluation == pytest.approx(4.5 * 12 / 32) and made.evaluations == 2
    assert made.whole == pytest.approx(10 * made.step + 2 * made.evaluation)
    assert made.memory is None


def test_longer_answers_and_groups_that_do_not_count() -> None:
    longer = e.estimate(a_run(), a_trial(), 100.0)
    assert (longer.rollout, longer.update) == pytest.approx((9.0, 8.0))
    half = e.estimate(a_run(), a_trial(counted=0.5), 50.0)
    assert half.rollout == pytest.approx(1.5 + 0.5 * 14) and half.update == pytest.approx(4.0)


def test_memory_grows_with_rows_or_with_a_micro_batch() -> None:
    held = {"held": 500.0, "fixed": 30.0}
    sampling = e.estimate(a_run(), a_trial(**held, gpu=True, sampling=100.0, updating=40.0), 50.0)
    assert sampling.memory == pytest.approx(530 + 100 * 4)  # 32 rows instead of 8
    both = e.estimate(a_run(), a_trial(**held, sampling=100.0, updating=40.0), 50.0)
    assert both.memory == pytest.approx(530 + 100 * 4 + 40 * 4)  # a process keeps what it freed
    many = a_run()
    many.probes[0].tasks = [None] * 40
    evaluating = e.estimate(many, a_trial(**held, gpu=True, sampling=100.0), 50.0)
    assert evaluating.memory == pytest.approx(530 + 100 * 80 / 8)  # an evaluation of 40 × 2 attempts
    # the trial's optimiser step: 8 attempts of 60 tokens in 2 parts; the run's: 32 in 2
    updating = e.estimate(a_run(), a_trial(**held, gpu=True, sampling=1.0, updating=100.0), 50.0)
    assert updating.memory == pytest.approx(530 + 100 * 4)
    small = a_run()
    small.updates[0].policy.token_budget = 240
    assert e.estimate(small, a_trial(**held, gpu=True, updating=100.0), 50.0).memory == 630


def test_sizes_that_are_tried() -> None:
    assert list(e._sizes(1)) == [1, 1]
    assert list(e._sizes(6)) == [1, 1, 2, 4, 6]
    assert list(e._sizes(8)) == [1, 1, 2, 4, 8]


@pytest.mark.parametrize(("seconds", "text"), [(59.4, "59 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert e._duration(seconds) == text
