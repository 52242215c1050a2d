"""Statistics of attention: by hand from a planted map, and the same on every layout as from a model's own weights."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import TOKEN, TRAJECTORY, Column, floating
from temper.errors import UserError
from temper.parts.attention import (
    ATTENTION_ENTROPY,
    END_ATTENTION,
    HEAD_DISTANCE,
    RHYTHM,
    AttentionEntropy,
    FromTheEnd,
    HeadDistance,
    Rhythm,
    Spaced,
    every_layer,
)
from temper.parts.logprobs import Read
from tests.core.test_learner import learner, mixed

ONE = torch.tensor


def looked(feature: object, weights: Tensor, at: list[int]) -> Tensor:
    """What the feature keeps of one head's map [queries, places]."""
    out = torch.zeros(weights.shape[1], 1, feature.size)  # type: ignore[attr-defined]
    sampled = torch.zeros(weights.shape[1], dtype=torch.bool)
    sampled[at] = True
    feature.look(weights[None], ONE(at), sampled, out)  # type: ignore[attr-defined]
    return out[:, 0]


def test_entropy_of_a_uniform_row_is_one_and_of_a_single_place_zero() -> None:
    rows = torch.zeros(3, 6)
    rows[0, :4] = 0.25  # places 0 to 3; without the sink three are left, alike
    rows[1, 2] = 1.0
    rows[2, 1], rows[2, 5] = 0.25, 0.25
    rows[2, 0] = 0.5
    kept = looked(AttentionEntropy(), rows, [3, 4, 5])[3:, 0]
    assert torch.allclose(kept, ONE([1.0, 0.0, math.log(2) / math.log(5)]), atol=1e-6)
    whole = looked(AttentionEntropy(sink=True), rows, [3, 4, 5])[3:, 0]
    assert torch.allclose(whole, ONE([1.0, 0.0, 1.5 * math.log(2) / math.log(6)]), atol=1e-6)
    assert looked(AttentionEntropy(), torch.ones(1, 1), [0])[0, 0] == 0.0  # nothing but the sink


def test_windowed_distance_peaks_where_a_chunk_opens_and_influence_at_the_anchor() -> None:
    n = 24
    rows = torch.zeros(n, n)
    for t in range(1, n):
        rows[t, t - 1 if t % 6 else max(t - 6, 1)] = 1.0  # inside a chunk one looks one back, at its head six
    feature = Rhythm((0,), (0,), window=4, near=2, far=8)
    kept = looked(feature, rows, list(range(n)))
    waad = kept[:, 0]
    assert [t for t in range(7, n) if waad[t] == 4] == [12, 18]  # cut at the window
    assert waad[7] == waad[11] == 1
    rows = torch.zeros(n, n)
    rows[torch.arange(1, n), 1] = 0.1
    rows[5 + 2 : 5 + 9, 5] = 0.9  # the anchor at 5
    kept = looked(feature, rows, list(range(n)))
    future = kept[:, 1] / kept[:, 2]
    assert future.nan_to_num(nan=0.0).argmax() == 5 and math.isclose(float(future[5]), 0.9, rel_tol=1e-5)
    assert bool(future[n - 2 :].isnan().all()) and not bool(future[: n - 2].isnan().any())


def test_distance_of_a_head() -> None:
    rows = torch.zeros(1, 5)
    rows[0, 0], rows[0, 1], rows[0, 4] = 0.5, 0.25, 0.25  # the sink does not count
    assert looked(HeadDistance(), rows, [4])[4, 0] == 0.75


def test_attention_of_the_last_token() -> None:
    rows = torch.eye(5)[2:].clone()
    rows[2] = ONE([0.1, 0.2, 0.3, 0.4, 0.0])
    assert torch.equal(looked(FromTheEnd(), rows, [2, 3, 4])[:, 0], ONE([0.1, 0.2, 0.3, 0.4, 0.0]))


def test_layers_that_are_looked_at() -> None:
    assert list(every_layer(3)) == [0, 1, 2]
    assert Spaced()(36) == [12, 15, 18, 20, 23]
    assert Spaced()(2) == [0, 1]
    assert Spaced(1 << 16, 0.5, 1.0)(4) == [2, 3]
    assert Spaced()(1) == [0]


SOURCES = {
    ATTENTION_ENTROPY: AttentionEntropy(),
    HEAD_DISTANCE: HeadDistance(every_layer),
    RHYTHM: Rhythm((0, 3), (1, 2), every_layer, near=1, far=2, window=3),
    END_ATTENTION: FromTheEnd(),
}


def read(b: Batch, **how: object) -> Batch:
    policy = type("P", (), {"learner": learner(**how)})()  # type: ignore[arg-type]
    return asyncio.run(Read(policy, SOURCES)(b))


def test_the_same_on_every_layout_and_any_cut() -> None:
    """A ragged group, a tree, a context reset and a dialogue; the packed row, the padded rectangle, small cuts."""
    b = mixed()
    whole = read(b, flat=True)
    for other in (read(b, flat=False), read(b, flat=True, budget=24), read(b, flat=False, budget=24)):
        for column in (ATTENTION_ENTROPY, HEAD_DISTANCE):
            assert torch.allclose(whole[column], other[column], atol=1e-6), column.name
    unshared = read(b, flat=False)
    for column in (RHYTHM, END_ATTENTION):  # a shared stem's are means over its branches, in whatever micro-batch
        assert torch.allclose(whole[column], unshared[column], atol=1e-6, equal_nan=True), column.name


def test_as_from_the_maps_that_the_model_itself_gives() -> None:
    from tests.core import hand

    b = hand.ragged()
    mine = read(b, flat=True)
    module = learner().module
    module.set_attn_implementation("eager")
    entropy, column = mine[ATTENTION_ENTROPY], 0
    for trajectory in range(b.size(TRAJECTORY)):
        turns = b.turns_of(trajectory)
        ids = [i for u in turns for i in b.turn_ids(u)]
        with torch.no_grad():
            maps = torch.stack(module(input_ids=ONE([ids]), output_attentions=True).attentions)[:, 0]  # layers, heads
        n = len(b.turn_ids(turns[-1]))
        for t in range(len(ids) - n, len(ids)):
            a = maps[:, :, t, 1 : t + 1]
            a = a / a.sum(-1, keepdim=True)
            expected = (-(torch.xlogy(a, a)).sum(-1) / math.log(max(t, 2))).mean() if t > 1 else ONE(0.0)
            assert math.isclose(float(entropy[column]), float(expected), abs_tol=1e-5)
            column += 1
    assert column == b.size(TOKEN)


def test_a_model_whose_attention_is_its_own_is_refused_in_a_sentence() -> None:
    own = learner()
    own.module.set_attn_implementation("eager")
    with pytest.raises(UserError, match="computes attention in a way of its own"):
        own.read(mixed(), {Column("e", TOKEN, floating): AttentionEntropy()})
