import pytest

from temper.objective import Term
from temper.parts.losses import Reinforce
from temper.parts.schedules import Constant, Cosine, Linear, WarmUp


def values(schedule, steps):
    return [schedule(s) for s in steps]


def test_shapes_by_hand():
    assert values(Constant(2.0), [0, 9]) == [2, 2]
    assert values(Linear(1.0, 0.0, 4), [0, 1, 4, 9]) == [1, 0.75, 0, 0]
    assert values(Cosine(1.0, 0.0, 4), [0, 1, 2, 4, 9]) == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, 0, 0])
    assert values(WarmUp(2.0, 4), [0, 1, 3, 4, 9]) == [0.5, 1, 2, 2, 2]
    assert values(WarmUp(Linear(1.0, 0.0, 4), 2), [0, 1, 2]) == [0.5, 0.75, 0.5]
    assert values(WarmUp(2.0, 0), [0]) == [2]


def test_a_term_takes_a_schedule():
    term = Term("policy", Reinforce(), coef=Linear(1.0, 0.0, 4))
    assert [term.coefficient(s) for s in (0, 2)] == [1, 0.5]
