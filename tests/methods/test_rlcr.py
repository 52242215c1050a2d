"""RLCR: the score is proper and bounded; what a confidence is; calibration by hand."""

from __future__ import annotations

import asyncio
import math

import pytest

from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY
from temper.methods.objectives.rlcr import ProperScore, rlcr, stated
from temper.parts.calibration import calibration, weighted_majority
from temper.parts.shaping import SHAPED
from tests.methods.test_outcome_exploration import answered


@pytest.mark.parametrize(
    ("text", "q"),
    [
        ("4<confidence>0.8</confidence>", 0.8), ("4 <confidence> 1 </confidence><|im_end|>", 1.0),
        ("<confidence>0.5</confidence>4", None), ("4<confidence>1.5</confidence>", None),
        ("4<confidence>high</confidence>", None), ("4<confidence>0.1.2</confidence>", None), ("4", None),
    ],
)  # fmt: skip
def test_confidence(text: str, q: float | None) -> None:
    assert stated(text) == q


def scored(q: str, r: float, **how: bool) -> float:
    return asyncio.run(ProperScore(**how)(answered([f"4<confidence>{q}</confidence>"], [r])))[SHAPED].item()


def test_reward_by_hand() -> None:
    assert scored("0.8", 1.0) == pytest.approx(0.5 + 0.5 + 0.5 * (1 - 0.04))
    assert scored("0.8", 0.0) == pytest.approx(0.5 + 0.5 * (1 - 0.64))
    assert scored("9", 1.0) == 0.0 and scored("high", 1.0) == 0.0  # a format failure, not ½
    assert scored("0.8", 1.0, brier=False) == 1.0
    assert scored("high", 1.0, lenient=True) == 0.5 and scored("high", 0.0, lenient=True) == 0.0


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_expected_reward_is_largest_at_the_truth_and_grows_with_it(p: float) -> None:
    grid = [k / 100 for k in range(101)]
    texts = [f"4<confidence>{q}</confidence>" for q in grid]
    right, wrong = (asyncio.run(ProperScore()(answered(texts, [r] * 101)))[SHAPED].double() for r in (1.0, 0.0))

    def expected(p: float) -> list[float]:
        return (p * right + (1 - p) * wrong).tolist()

    assert grid[max(range(101), key=lambda k: expected(p)[k])] == p
    assert max(expected(p)) == pytest.approx(1 + p * p / 2)
    best = [max(expected(x / 10)) for x in range(11)]
    assert best == sorted(best)


def test_calibration() -> None:
    got = calibration([1, 0, 1, 0], [0.9, 0.95, 0.3, 0.1])
    assert got["accuracy"] == 0.5 and got["brier"] == pytest.approx((0.01 + 0.9025 + 0.49 + 0.01) / 4)
    assert got["ece"] == pytest.approx((abs(1 - 1.85) + abs(1 - 0.3) + abs(0 - 0.1)) / 4)
    assert got["auroc"] == pytest.approx((0 + 1 + 0 + 1) / 4)
    assert calibration([1, 1], [1.0, 1.0])["ece"] == 0.0 and math.isnan(calibration([1], [0.5])["auroc"])


def test_votes_by_confidence() -> None:
    assert (
        weighted_majority(["3", "4", "4"], [0.9, 0.3, 0.3]) == "3"
        and weighted_majority(["3", "4", "4"], [0.5] * 3) == "4"
    )


def test_unjudged_answers_stay_unjudged_and_sigma_is_left_out() -> None:
    b = answered(["4<confidence>1</confidence>", "5<confidence>0</confidence>", "5"], [1.0, 0.0, 0.0])
    b = b.put(REWARD, b[REWARD].index_fill(0, (b[REWARD] < 0).nonzero().flatten(), 0.0))
    made = rlcr(None, filter_overlong=False)
    for stage in made.on_group:
        b = asyncio.run(stage(b))
    mean = (1.5 + 1.0 + 0.0) / 3
    assert b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY).tolist() == pytest.approx([1.5 - mean, 1.0 - mean, -mean])
    b = answered(["4<confidence>1</confidence>", "x"], [1.0, 0.0])
    b = b.put(REWARD, b[REWARD].index_fill(0, (b[REWARD] == 0).nonzero().flatten(), math.nan))
    assert bool(asyncio.run(ProperScore()(b))[SHAPED][1].isnan())
