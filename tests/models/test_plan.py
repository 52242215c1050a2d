"""A plan of attention: who looks at whom, by hand and against plain attention over every context alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from temper.models import layout, plan
from temper.models.attention import _many_queries
from temper.models.plan import Unit, _bundles, plan_of, planned
from tests.core import hand

TREE = [
    Unit(-1, length=3),
    Unit(0, length=2),
    Unit(0, length=4),
    Unit(2, length=1),
    Unit(-1, length=5),
    Unit(2, length=2),
]


def contexts(units: list[Unit]) -> list[list[int]]:
    """Columns of every unit's ancestors and itself."""
    ends = list(itertools.accumulate(u.length for u in units))
    out: list[list[int]] = []
    for unit, end in zip(units, ends):
        own = list(range(end - unit.length, end))
        out.append([*(out[unit.parent] if unit.parent >= 0 else []), *own])
    return out


def test_by_hand() -> None:
    made = plan_of(planned([Unit(-1, length=2), Unit(0, length=2), Unit(0, length=1)]))
    assert made is not None
    root, leaves = made.pieces
    assert root.queries.tolist() == [[0, 1]] and root.keys.tolist() == [[0, 1]] and root.mask is None
    assert leaves.queries.tolist() == [[4, 4], [2, 3]]  # the shorter one is padded
    assert leaves.keys.tolist() == [[0, 1, 4, 4], [0, 1, 2, 3]]
    assert leaves.mask is not None and leaves.mask[0, 0].tolist() == [[True, True, True, False], [True] * 4]
    assert made.back.tolist() == [0, 1, 4, 5, 2]


@pytest.mark.parametrize("free", [0, 20_000])
def test_each_context_attends_as_if_it_were_alone(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FREE", free)
    g = torch.Generator().manual_seed(0)
    n = sum(u.length for u in TREE)
    q = torch.randn(1, 4, n, 8, generator=g, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, 2, n, 8, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(1, n, 4, 8, generator=g, dtype=torch.float64)
    made = plan_of(planned(TREE))
    assert made is not None and (len(made.pieces) == 2 if free else len(made.pieces) > 2)
    mine = made.attend(q, k, v, _many_queries)
    theirs = torch.zeros_like(mine)
    for unit, columns in zip(TREE, contexts(TREE)):
        picked = [x[:, :, columns] for x in (q, k, v)]
        alone = scaled_dot_product_attention(*picked, is_causal=True, enable_gqa=True).transpose(1, 2)
        theirs[:, columns[-unit.length :]] = alone[:, -unit.length :]
    torch.testing.assert_close(mine, theirs, atol=1e-14, rtol=0)
    for x, y in zip(*(torch.autograd.grad((o * weight).sum(), (q, k, v), retain_graph=True) for o in (mine, theirs))):
        torch.testing.assert_close(x, y, atol=1e-13, rtol=0)


def test_units_of_a_batch_are_stretches_between_forks() -> None:
    b = hand.tree()
    made = layout.units(b)
    forks = [u for u in made if u.parent >= 0]
    assert len(made) == 1 + len(forks) and len(forks) == 3
    assert sum(u.length for u in made) == int(b.structure.start[-1])  # every turn once


def test_pieces_hold_units_of_similar_size() -> None:
    sizes = [(1, 1), (200, 200), (1, 1), (190, 190), (3, 30), (400, 430), (0, 5)]
    bundles = _bundles(sizes)
    assert sorted(n for b in bundles for n in b) == [0, 1, 2, 3, 4, 5]  # what holds no token attends to nothing
    assert [sorted(b) for b in bundles] == [[0, 2], [1, 3], [4], [5]]
