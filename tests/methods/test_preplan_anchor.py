"""Preplan and anchor: factors by hand from a planted rhythm, and what is left alone."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.columns import ADVANTAGE
from temper.methods.objectives.preplan_anchor import Emphasise, preplan_anchor
from temper.parts.attention import RHYTHM
from tests.methods.groups import of

WAAD = torch.tensor([1.0, 4.0, 1.0, 1.0, 1.0])  # Δ = 3, 3, 0, 0, 0: a chunk opens at 1
FAI = torch.tensor([0.1, 0.1, 0.9, 0.2, math.nan])


@pytest.mark.parametrize(
    ("form", "gamma"),
    [
        ("local", [1.5, 1.5, 1, 1, 1]),
        ("global", [1, 1, 1.5, 1.5, 1]),
        ("coupled", [1.25, 1, 1.25, 1.25, 1]),  # both anchors are dominated: half goes to the opener at 0
    ],
)
def test_factors(form: str, gamma: list[float]) -> None:
    assert Emphasise(form).gamma(WAAD, FAI).tolist() == pytest.approx(gamma)  # type: ignore[arg-type]


def test_an_anchor_that_is_not_dominated_keeps_all() -> None:
    waad = torch.tensor([1.0, 4.0, 3.9, 1.0, 1.0])
    assert Emphasise().gamma(waad, FAI).tolist()[2] == 1.5


def test_the_last_tokens_are_no_anchors() -> None:
    nothing = torch.full((5,), math.nan)
    assert Emphasise("global").gamma(WAAD, nothing).tolist() == [1.0] * 5
    assert Emphasise().gamma(WAAD[:1], nothing[:1]).tolist() == [1.0]


def test_only_where_the_advantage_is_not_negative() -> None:
    b = of([(5, 1.0), (5, 0.0), (5, None)])
    a = torch.tensor([1.0] * 5 + [-1.0] * 5 + [math.nan] * 5)
    b = b.put(ADVANTAGE, a).put(RHYTHM, torch.stack([WAAD, FAI], 1).repeat(3, 1))
    out = asyncio.run(Emphasise("local")(b))[ADVANTAGE]
    assert out[:10].tolist() == [1.5, 1.5, 1, 1, 1] + [-1.0] * 5 and bool(out[10:].isnan().all())


def test_without_gain_it_is_grpo_to_the_bit() -> None:
    b = of([(5, 1.0)]).put(ADVANTAGE, torch.rand(5)).put(RHYTHM, torch.stack([WAAD, FAI], 1))
    assert torch.equal(asyncio.run(Emphasise(gain=0.0)(b))[ADVANTAGE], b[ADVANTAGE])


def test_the_paper_makes_sixteen_steps_of_a_batch() -> None:
    made = preplan_anchor(None)
    assert made.minibatches == 16 and [type(s).__name__ for s in made.on_batch] == ["Rhythms", "Emphasise"]
