"""RECAP: weights by hand, their sum, and objectives without data."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY
from temper.errors import UserError
from temper.methods.objectives.recap import Reweighted, recap
from tests.methods.groups import of


def batch(a: list[float], f: list[float]) -> Batch:
    b = of([(1, 0.0) for _ in a])
    return b.put(REWARD.of("a"), torch.tensor(a)).put(REWARD.of("f"), torch.tensor(f))


def test_uniform_until_two_windows_are_full() -> None:
    stage = Reweighted(("a", "f"), window=2)
    for n in range(4):
        w = stage.weights(batch([0.5 + 0.1 * n, 0.5], [1.0, 1.0]))
        assert w == {"a": 1.0, "f": 1.0} if n < 3 else w["a"] != 1.0


def test_weights_by_hand() -> None:
    stage = Reweighted(("a", "f"), window=2, temperature=5.0)
    stage.history = {"a": [0.5, 0.5, 0.4, 0.2], "f": [0.2, 0.2, 0.2, 0.2]}
    a = 0.3 / 0.5 + 0.1 / 0.8
    f = 1.0 + 0.0
    z = [math.exp(x / 5) for x in (a, f)]
    assert stage.balance() == pytest.approx({"a": 2 * z[0] / sum(z), "f": 2 * z[1] / sum(z)})
    assert sum(stage.balance().values()) == pytest.approx(2.0)


def test_a_constant_objective_is_lowest_among_noisy_ones() -> None:
    stage = Reweighted(("a", "b", "f"), window=4)
    noisy = [0.5, 0.3, 0.5, 0.3, 0.6, 0.2, 0.6, 0.2]
    stage.history = {"a": noisy, "b": noisy[::-1], "f": [0.4] * 8}
    w = stage.balance()
    assert w["f"] < w["a"] and w["f"] < w["b"] and sum(w.values()) == pytest.approx(3.0)


def test_what_is_learned_loses_weight() -> None:
    stage = Reweighted(("a", "f"), window=2)
    stage.history = {"a": [0.5, 0.5, 0.5, 0.5], "f": [0.4, 0.4, 0.0, 0.0]}
    assert stage.balance()["f"] < 1 < stage.balance()["a"]
    stage.history["f"] = [0.0] * 4  # saturated: no ratio of nothing to nothing
    assert all(math.isfinite(x) for x in stage.balance().values())


def test_a_step_without_data_is_no_step_of_the_window() -> None:
    stage = Reweighted(("a", "f"), window=2)
    stage.weights(batch([1.0, 0.0], [math.nan, math.nan]))
    assert stage.history == {"a": [0.5]}


def test_each_part_has_advantages_of_its_own() -> None:
    stage = Reweighted(("a", "f"), window=1)
    stage.history = {"a": [0.5], "f": [0.5]}
    b = batch([1.0, 0.0], [0.0, 0.1])
    out = asyncio.run(stage(b))
    w = stage.metrics
    z = 2**-0.5
    a = out.mean(out[ADVANTAGE], TOKEN, TRAJECTORY).tolist()
    expected = (w["recap/weight/a"] - w["recap/weight/f"]) * z / 2
    assert a == pytest.approx([expected, -expected], abs=1e-4)  # the scale of a part does not matter


def test_a_part_that_is_missing_for_a_row_adds_nothing_to_it() -> None:
    out = asyncio.run(Reweighted(("a", "f"))(batch([1.0, 0.0, math.nan], [math.nan, math.nan, math.nan])))
    a = out.mean(out[ADVANTAGE], TOKEN, TRAJECTORY).tolist()
    assert a[:2] == pytest.approx([2**-0.5 / 2, -(2**-0.5) / 2], abs=1e-4) and math.isnan(a[2])


def test_history_is_its_state_and_it_needs_an_objective() -> None:
    one, two = Reweighted(("a", "f")), Reweighted(("a", "f"))
    one.weights(batch([1.0, 0.0], [1.0, 1.0]))
    two.load_state_dict(one.state_dict())
    assert two.history == one.history
    with pytest.raises(UserError, match="name at least one"):
        recap(None, parts=())
