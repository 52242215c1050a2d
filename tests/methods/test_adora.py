"""ADORA: the six groups of its table, in both variants."""

from __future__ import annotations

import asyncio

import pytest
import torch

from temper.columns import ADVANTAGE, TRAJECTORY
from temper.methods.objectives.adora import LengthAdvantage, adora
from temper.parts.advantages import Advantage
from tests.methods.groups import of

GROUPS = {
    "no right answer": ([(4, 0.0), (2, 0.0)], False, True),
    "no wrong answer": ([(4, 1.0), (2, 1.0)], True, False),
    "the right one is longer": ([(5, 1.0), (2, 0.0), (4, 0.0)], True, True),
    "the right one is shorter": ([(2, 1.0), (2, 0.0), (4, 0.0)], False, False),
    "only cut ones are wrong": ([(2, 1.0), (9, 0.0)], True, False),
    "a single wrong one": ([(3, 0.0)], False, True),
    "a single right one": ([(3, 1.0)], True, False),
    "as long as the mean": ([(3, 1.0), (2, 0.0), (4, 0.0)], False, False),
    "one was not judged": ([(3, 1.0), (2, 0.0), (8, None)], True, True),
}


@pytest.mark.parametrize("name", GROUPS)
def test_where_length_pays(name: str) -> None:
    rows, text, vision = GROUPS[name]
    b = of(rows)
    assert LengthAdvantage(longest=9).pays(b).tolist() == [text]
    assert LengthAdvantage(longest=9, variant="vision").pays(b).tolist() == [vision]


def test_the_factor_comes_after_the_z_score() -> None:
    b = asyncio.run(Advantage()(of([(2, 1.0), (2, 0.0), (4, 0.0)], [(5, 1.0), (2, 0.0)])))
    out = asyncio.run(LengthAdvantage(longest=9)(b))
    before, after = (b.mean(x[ADVANTAGE], 0, TRAJECTORY) for x in (b, out))
    assert torch.allclose(after, before * torch.tensor([0.1, 0.1, 0.1, 1.0, 1.0]))
    assert torch.allclose(before, torch.tensor([2, -1, -1, 0, 0]) / 3**0.5 + torch.tensor([0, 0, 0, 1, -1]) / 2**0.5,
                          atol=1e-5)  # fmt: skip


def test_a_factor_of_one_is_grpo_to_the_bit() -> None:
    b = asyncio.run(Advantage()(of([(2, 1.0), (2, 0.0), (4, 0.0)])))
    assert torch.equal(asyncio.run(LengthAdvantage(factor=1.0)(b))[ADVANTAGE], b[ADVANTAGE])


def test_unjudged_answers_keep_no_advantage() -> None:
    b = asyncio.run(Advantage()(of([(2, 1.0), (2, 0.0), (4, None)])))
    assert asyncio.run(LengthAdvantage()(b))[ADVANTAGE].isnan().tolist() == [False] * 4 + [True] * 4


def test_as_a_method() -> None:
    made = adora(None, factor=0.3)
    assert [type(s).__name__ for s in made.on_group] == ["Advantage", "LengthAdvantage"] and len(made.terms) == 1
