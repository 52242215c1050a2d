"""RepExp: leverage by its identities, the coreset, and the degenerate groups."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import torch

from temper.carrier import Batch
from temper.columns import HIDDEN, REWARD, TRAJECTORY
from temper.methods.objectives.repexp import Project, RepresentationBonus, coreset, leverage
from temper.parts.shaping import SHAPED
from tests.core.test_learner import learner, mixed
from tests.methods.groups import of

DRAW = torch.Generator().manual_seed(0)


def test_the_sum_is_the_trace() -> None:
    h = torch.randn(6, 4, generator=DRAW, dtype=torch.float64)
    s = torch.linalg.svdvals(h).square()
    assert float(leverage(h, 0.01).sum()) == pytest.approx(float((s / (s + 0.01)).sum()))


def test_duplicates_share_and_orthogonal_rows_do_not() -> None:
    same = torch.ones(5, 3, dtype=torch.float64)
    assert leverage(same, 1e-3).tolist() == pytest.approx([0.2] * 5, abs=1e-3)
    assert leverage(torch.eye(4, dtype=torch.float64), 1e-3).tolist() == pytest.approx([1.0] * 4, abs=2e-3)


def test_leaving_ones_own_sample_out() -> None:
    h = torch.randn(5, 3, generator=DRAW, dtype=torch.float64)
    mine = leverage(h, 0.1, leave_one_out=True)
    for i in range(5):
        rest = torch.cat([h[:i], h[i + 1 :]])
        inverse = torch.linalg.inv(0.1 * torch.eye(3, dtype=torch.float64) + rest.T @ rest)
        assert float(mine[i]) == pytest.approx(float(h[i] @ inverse @ h[i]))


def test_centred_groups_saturate_where_the_scale_is_large() -> None:
    """With G ≤ d and ‖h‖² ≫ λ every row has leverage 1 − 1/G: hence the division by the mean norm."""
    h = torch.randn(8, 32, generator=DRAW, dtype=torch.float64)
    h = 10 * h / h.norm(dim=1, keepdim=True)
    flat = leverage(h - h.mean(0), 0.01)
    assert flat.tolist() == pytest.approx([1 - 1 / 8] * 8, abs=2e-3) and float(flat.std()) < 1e-3
    small = h / 100
    assert float(leverage(small - small.mean(0), 0.01).std()) > float(flat.std())


def test_coreset_takes_what_is_unlike_first() -> None:
    h = torch.tensor([[1.0, 0], [1.01, 0], [0.99, 0], [-3.0, 0], [0, 3.0]])
    assert set(coreset(h, 2)) == {3, 4} and len(set(coreset(h, 5))) == 5 and len(coreset(h, 9)) == 5


class Base:
    """A frozen start whose projected hidden states are given."""

    def __init__(self, h: list[list[float]]):
        self.learner = self
        self.h = torch.tensor(h, dtype=torch.float64)

    def read(self, b: Batch, columns: dict) -> Batch:  # type: ignore[type-arg]
        return b.put(next(iter(columns)), self.h)


def test_bonus_only_where_an_answer_was_right() -> None:
    b = of([(1, 1.0), (1, 0.0)], [(1, 0.0), (1, 0.0)])
    stage = RepresentationBonus(Base([[1, 0], [0, 1], [1, 0], [0, 1]]), coef=1.0)
    out = asyncio.run(stage(b))
    gain = (out[SHAPED] - b[REWARD]).tolist()
    half = 0.5 / (1 + 0.01)  # ±(½, −½): Σhhᵀ has the eigenvalue 1 along them, ‖h‖² = ½
    assert gain == pytest.approx([half, half, 0.0, 0.0], abs=1e-6)
    assert stage.metrics["exploration/spread"] == pytest.approx(half / 2, abs=1e-6)


def test_identical_answers_have_no_bonus() -> None:
    out = asyncio.run(RepresentationBonus(Base([[1, 2], [1, 2]]), coef=1.0)(of([(1, 1.0), (1, 0.0)])))
    assert out[SHAPED].tolist() == pytest.approx([1.0, 0.0], abs=1e-9)


def test_the_projection_is_new_with_every_call_and_the_same_in_a_resumed_run() -> None:
    b = mixed().put(REWARD, torch.ones(mixed().size(TRAJECTORY)))
    base = SimpleNamespace(learner=learner())
    one, two = RepresentationBonus(base, coef=1.0), RepresentationBonus(base, coef=1.0)
    first, second = (asyncio.run(one(b))[SHAPED] for _ in range(2))
    assert not torch.equal(first, second)
    two.load_state_dict({"calls": 1})
    assert torch.equal(asyncio.run(two(b))[SHAPED], second)


def test_the_projection_keeps_lengths_on_average() -> None:
    b = of([(1, 1.0)]).put(HIDDEN, torch.ones(1, 64))
    lengths = torch.tensor([float(Project(32, k)(b).square().sum()) for k in range(300)])
    assert float(lengths.mean()) == pytest.approx(64.0, rel=0.1)
