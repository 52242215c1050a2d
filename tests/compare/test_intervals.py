"""Paired intervals: exact where the answer is known, and as often right as they say."""

import math

import numpy as np
import pytest

from temper.compare.intervals import Errors, Spread, difference, errors, f_tail, holm, t_cdf, t_quantile

# Student's t, two-sided 95 %, from tables
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("degrees", "want"), TABLE.items())
def test_quantiles_of_student_t(degrees: int, want: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(want, abs=5e-4)
    assert t_cdf(-want, degrees) == pytest.approx(0.025, abs=1e-4)
    assert t_cdf(0.0, degrees) == pytest.approx(0.5)


def test_where_tasks_agree_it_is_the_t_interval_over_seeds() -> None:
    by_seed = np.array([0.1, 0.2, 0.6])
    a, b = np.tile(by_seed[:, None], (1, 8)), np.zeros((3, 8))
    d = difference(a, b, ["x"] * 8)
    half = 4.303 * by_seed.std(ddof=1) / math.sqrt(3)
    assert d.mean == pytest.approx(0.3)
    assert d.high - d.mean == pytest.approx(half, rel=0.05) and d.low == pytest.approx(0.3 - half, rel=0.1)


def test_where_seeds_agree_it_is_the_interval_over_tasks() -> None:
    gap = np.array([0.0, 1.0] * 50)
    d = difference(np.tile(gap, (4, 1)), np.zeros((4, 100)), ["x"] * 100)
    assert d.mean == 0.5 and d.high - d.mean == pytest.approx(1.984 * 0.05, rel=0.05)


def test_every_source_weighs_the_same() -> None:
    a = np.array([[1.0, 0.0, 0.0, 0.0, 0.0]] * 2)
    assert difference(a, np.zeros((2, 5)), ["few"] + ["many"] * 4).mean == 0.5


def test_one_seed_has_no_interval_and_equal_arms_no_difference() -> None:
    one = difference(np.ones((1, 4)), np.zeros((1, 4)), ["x"] * 4)
    assert (one.mean, one.low, one.high, one.p) == (1.0, None, None, 1.0) and not one.told_apart
    same = difference(np.ones((3, 4)), np.ones((3, 4)), ["x"] * 4)
    assert (same.mean, same.low, same.p) == (0.0, 0.0, 1.0)


def test_holm_by_hand() -> None:
    p = {("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): 0.03}
    assert holm(p) == {
        ("a", "b"): pytest.approx(0.03),
        ("b", "c"): pytest.approx(0.06),
        ("a", "c"): pytest.approx(0.06),
    }


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.1), (3, 0.0), (5, 0.05)])
def test_a_difference_that_is_not_there_is_rarely_found(seeds: int, spread: float) -> None:
    """Two equal methods, whose skill varies by seed and by task: at most 8 of 100 comparisons tell them apart."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        task = rng.uniform(0.2, 0.8, 32)
        skill = [np.clip(task + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.1, 32), 0, 1) for _ in range(2)]
        gap = rng.binomial(4, skill[0]) / 4 - rng.binomial(4, skill[1]) / 4
        found += abs(gap.mean()) > errors([gap[:, :16], gap[:, 16:]]).half(0.95)
    assert found <= 8


def test_p_and_the_interval_say_the_same() -> None:
    both = Errors(seeds=0.02, tasks=0.03, free=3, degrees=60)
    assert both.p(both.half(0.95)) == pytest.approx(0.05, abs=1e-4)
    alone = Errors(seeds=0.1, tasks=0.0, free=2, degrees=60)
    assert alone.p(0.4303) == pytest.approx(2 * (1 - t_cdf(4.303, 2)), abs=1e-4)
    assert both.p(0.0) == 1 and Errors(0.0, 0.0, 2, 9).p(0.1) == 0


def test_the_tail_of_f() -> None:
    assert f_tail(4.103, 2, 10) == pytest.approx(0.05, abs=1e-4)  # from tables
    assert f_tail(7.559, 2, 10) == pytest.approx(0.01, abs=1e-4)


def test_the_spread_of_runs_by_hand() -> None:
    """Arm c is a + 0.1; b disagrees: residuals of a, b, c are (1, −1), (−2, 2), (1, −1) times 0.01."""
    scores = {"a": {0: 0.51, 1: 0.49}, "b": {0: 0.48, 1: 0.52}, "c": {0: 0.61, 1: 0.59}}
    found = Spread.of(scores)
    assert found is not None and found.degrees == 2
    assert found.one == pytest.approx(math.sqrt(12e-4 / 2)) and not found.unlike
    assert Spread.of({k: scores[k] for k in "ab"}) is None
    assert Spread.of({**scores, "c": {0: 0.6}, "d": {0: 0.6, 1: 0.6}}) is not None  # c is left out
    assert Spread.of({k: {0: 0.5} for k in "abc"}) is None and Spread.of({}) is None


def test_an_arm_that_spreads_more_than_the_others_is_found() -> None:
    rng = np.random.default_rng(0)
    scores = {f"a{i}": dict(enumerate(rng.normal(0.5, 0.01, 4))) for i in range(7)}
    wild = {**scores, "wild": {0: 0.2, 1: 0.8, 2: 0.3, 3: 0.9}}
    calm, found = Spread.of(scores), Spread.of(wild)
    assert calm is not None and not calm.unlike and found is not None and found.unlike == {"wild"}


def test_arms_together_tell_more_than_a_pair_alone_and_are_as_often_right() -> None:
    """Six equal arms with three seeds: single 95 % intervals miss in at most 6 % of the pairs, and are narrower."""
    rng = np.random.default_rng(1)
    missed, narrower, n, tasks = 0, [], 0, 16
    for _ in range(8):
        skill = rng.uniform(0.2, 0.8, tasks) + rng.normal(0, 0.05, (6, 3, 1)) + rng.normal(0, 0.05, (6, 3, tasks))
        runs = rng.binomial(4, np.clip(skill, 0, 1)) / 4
        spread = Spread.of({str(i): dict(enumerate(r.mean(1))) for i, r in enumerate(runs)})
        for i, j in ((0, 1), (2, 3), (4, 5)):
            d, alone = (difference(runs[i], runs[j], ["x"] * tasks, s) for s in (spread, None))
            missed += d.low > 0 or d.high < 0
            narrower.append((d.high - d.low) / (alone.high - alone.low))
            n += 1
    assert missed <= 0.06 * n and np.median(narrower) < 0.9
