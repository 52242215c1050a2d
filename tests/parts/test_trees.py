"""Credit in trees: worked by hand, and held against leaf rows as published code has them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TOKEN, TRAJECTORY, TURN, TURN_TEXT
from temper.episode import Completion, Recorder
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, Whiten, group_mean, unscaled
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.losses import Clip
from temper.parts.trees import (
    ABOVE,
    BELOW,
    OverLeaves,
    SegmentAdvantage,
    SubtreeAdvantage,
    node_mean,
    node_size,
    per_leaf_row,
    whitened,
)
from temper.tasks.task import Task

NAN = math.nan


def grown(spec: Any) -> Batch:
    """One tree. A node is (name, tokens, children) and a leaf (name, tokens, reward)."""
    record = Recorder(Task("t", "?"))
    prompt = record.add((1, 2))

    def walk(node: Any, path: list[int]) -> None:
        name, n, below = node
        ids = tuple(range(10, 10 + n))
        turn = record.sampled(Completion(ids, (-1.0,) * n, text=name), path[-1])
        if isinstance(below, list):
            for child in below:
                walk(child, [*path, turn])
        else:
            record.judge([*path, turn], reward=below)

    for node in spec:
        walk(node, [prompt])
    return Batch.of([record.episode()])


# prompt ─ a ─┬─ c (1.0)      b ends early: 3 leaves at the root, 2 below a
#        └ b  └─ d (0.0)
SMALL = [("a", 2, [("c", 1, 1.0), ("d", 3, 0.0)]), ("b", 4, 0.0)]
# two first segments, two leaves each
FOUR = [("a", 1, [("c", 1, 1.0), ("d", 1, 0.0)]), ("b", 1, [("e", 1, 0.0), ("f", 1, 0.0)])]


def run(stage: Any, b: Batch) -> Batch:
    out: Batch = asyncio.run(stage(b))
    return out


def by_name(b: Batch, x: Tensor) -> dict[str, float]:
    """A value of each sampled turn, from its first token."""
    first = {int(u): i for i, u in reversed(list(enumerate(b.structure.token_turn.tolist())))}
    return {b[TURN_TEXT][u]: float(x[i]) for u, i in sorted(first.items())}


def test_values_of_nodes() -> None:
    b = grown(SMALL)
    named = dict(zip(b[TURN_TEXT], node_mean(b, b[REWARD]).tolist()))
    assert named == pytest.approx({"": 1 / 3, "a": 0.5, "c": 1.0, "d": 0.0, "b": 0.0})
    assert dict(zip(b[TURN_TEXT], node_size(b, b[REWARD]).tolist())) == {"": 3, "a": 2, "c": 1, "d": 1, "b": 1}


def test_four_leaves_by_hand() -> None:
    b = grown(FOUR)
    # at the root: r − 1/4; below a: r − 1/2; below b: r − 0
    equal = [(0.75 + 0.5) / 2, (-0.25 - 0.5) / 2, -0.25 / 2, -0.25 / 2]
    assert SubtreeAdvantage().of_leaves(b).tolist() == pytest.approx(equal)
    size = [(4 * 0.75 + 2 * 0.5) / 6, (4 * -0.25 - 2 * 0.5) / 6, 4 * -0.25 / 6, 4 * -0.25 / 6]
    assert SubtreeAdvantage("size").of_leaves(b).tolist() == pytest.approx(size)
    silent = [(0.75 + 0.5) / 2, (-0.25 - 0.5) / 2, -0.25, -0.25]  # b's leaves are alike
    assert SubtreeAdvantage(drop_silent=True).of_leaves(b).tolist() == pytest.approx(silent)


def test_nodes_of_one_leaf_are_left_out_but_the_prompt_stays() -> None:
    b = grown(SMALL)
    want = [(2 / 3 + 1 / 2) / 2, (-1 / 3 - 1 / 2) / 2, -1 / 3]
    assert SubtreeAdvantage().of_leaves(b).tolist() == pytest.approx(want)
    alone = grown([("a", 2, [("b", 1, 0.7)])])
    assert SubtreeAdvantage().of_leaves(alone).tolist() == pytest.approx([0.7])  # the mean of one is taken as 0
    chain = grown([("a", 1, [("b", 1, [("c", 1, 1.0), ("d", 1, 0.0)])])])  # root, a and b have the same two leaves
    assert SubtreeAdvantage().of_leaves(chain).tolist() == pytest.approx([0.5, -0.5])


def test_one_level_is_the_mean_of_two_baselines() -> None:
    b = grown(FOUR)
    r = b[REWARD]
    group = r - group_mean(b, r)
    subtree = r - torch.tensor([0.5, 0.5, 0.0, 0.0])
    torch.testing.assert_close(SubtreeAdvantage().of_leaves(b), (group + subtree) / 2)


def test_without_branches_it_is_the_whitened_group_baseline() -> None:
    b = grown([(x, n, r) for x, n, r in (("a", 1, 1.0), ("b", 3, 0.0), ("c", 2, 0.5))])
    plain = run(Whiten(), run(Advantage(scale=unscaled), b))
    torch.testing.assert_close(run(SubtreeAdvantage(), b)[ADVANTAGE], plain[ADVANTAGE])


def test_several_trees_of_one_request_have_one_root() -> None:
    from temper.bridge import to_episodes

    b = Batch.of([*to_episodes(grown(SMALL)), *to_episodes(grown(SMALL))])
    assert b.size(TRAJECTORY) == 6 and b.size(TURN) == 1 + 2 * 4  # the prompt is one row
    want = [(2 / 3 + 1 / 2) / 2, (-1 / 3 - 1 / 2) / 2, -1 / 3]
    assert SubtreeAdvantage().of_leaves(b).tolist() == pytest.approx(want * 2)


def test_unjudged_leaves_count_nowhere() -> None:
    b = grown([("a", 2, [("c", 1, 1.0), ("d", 3, None)]), ("b", 4, 0.0)])
    assert SubtreeAdvantage().of_leaves(b).tolist() == pytest.approx([0.5, NAN, -0.5], nan_ok=True)
    a = by_name(b, run(SubtreeAdvantage(whiten=False), b)[ADVANTAGE])
    assert a == pytest.approx({"a": 0.5, "c": 0.5, "d": NAN, "b": -0.5}, nan_ok=True)
    live = (~run(SubtreeAdvantage(), b)[ADVANTAGE].isnan()).float()
    assert per_leaf_row(b, live).tolist() == pytest.approx([1 / 7] * 3 + [0.0] * 3 + [1 / 7] * 4)
    nobody = grown([("a", 1, 0.0)]).put(REWARD, torch.tensor([NAN]))
    assert run(SubtreeAdvantage(), nobody)[ADVANTAGE].isnan().all()


# leaf rows ------------------------------------------------------------------------------------------------------------


def leaf_rows(b: Batch) -> tuple[Tensor, Tensor]:
    """As published code has them: for every leaf, the token rows of its path; (token, leaf) of each."""
    pairs = [
        (i, j)
        for j in range(b.size(TRAJECTORY))
        for u in b.turns_of(j)
        for i in (b.structure.token_turn == u).nonzero().flatten().tolist()
    ]
    token, leaf = torch.tensor(pairs).T
    return token, leaf


def published(b: Batch, a: Tensor, logp: Tensor, loss: Clip) -> Tensor:
    """The token mean over leaf rows, each with its own leaf's whitened advantage."""
    token, leaf = leaf_rows(b)
    row = a[leaf]
    row = (row - row.mean()) * (row.var() + 1e-8).rsqrt()
    values, _ = loss.clipped((logp - b[BEHAVIOUR])[token].exp(), row)
    return values.mean()


@pytest.mark.parametrize("spread", [0.0, 0.6])
@pytest.mark.parametrize("spec", [SMALL, FOUR])
def test_the_loss_is_that_of_leaf_rows(spec: Any, spread: float) -> None:
    """Value and gradient, on-policy and where some ratios are clipped."""
    b = grown(spec)
    clip = Clip(0.2, 0.28, 3.0)
    gap = spread * torch.linspace(-1, 1, b.size(TOKEN)).double()
    logp = (b[BEHAVIOUR].double() + gap).requires_grad_()
    want = published(b.put(BEHAVIOUR, b[BEHAVIOUR].double()), SubtreeAdvantage().of_leaves(b).double(), logp, clip)
    (gradient,) = torch.autograd.grad(want, logp)
    made = run(SubtreeAdvantage(), b)
    term = Term("policy", OverLeaves(clip), per=per_leaf_row)
    live = made.put(BEHAVIOUR, made[BEHAVIOUR].double()).put(LOGP, logp)
    got = (term.weights(made).double() * term.values(live)[0]).sum()
    (mine,) = torch.autograd.grad(got, logp)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mine, gradient, atol=1e-6, rtol=1e-5)


def test_one_mean_and_a_plain_token_mean_are_other_losses() -> None:
    """What a shared token (2 of 12 leaf-row tokens belong to `a`, twice) loses under the usual weights."""
    b = run(SubtreeAdvantage(), grown(SMALL))
    ones = torch.ones(b.size(TOKEN))
    assert per_leaf_row(b, ones).tolist() == pytest.approx([2 / 12] * 2 + [1 / 12] * 8)
    assert token_mean(b, ones).tolist() == pytest.approx([1 / 10] * 10)
    once = b.spread(torch.ones(3), TRAJECTORY, TOKEN, how="sum")
    assert once.tolist() == [2.0] * 2 + [1.0] * 8  # mean → sum over leaves is this factor
    logp = b[BEHAVIOUR] + math.log(1.5)  # ρ = 1.5: clipped for leaves with A > 0 only
    live = b.put(LOGP, logp)
    two = OverLeaves(Clip(0.2, 0.28))(live.put(ADVANTAGE, live[ADVANTAGE]))[0][0]
    one = Clip(0.2, 0.28)(live)[0][0]
    assert float(two) == pytest.approx(float(-1.28 * b[ABOVE][0] - 1.5 * b[BELOW][0]))
    assert abs(float(two - one)) > 0.05
    torch.testing.assert_close(b[ABOVE] + b[BELOW], b[ADVANTAGE])


def test_whitening_counts_every_leaf_row() -> None:
    b = grown(SMALL)
    token, leaf = leaf_rows(b)
    a = SubtreeAdvantage().of_leaves(b)
    made = run(SubtreeAdvantage(), b)
    rows = (made[ABOVE] + made[BELOW])[token]
    assert float((per_leaf_row(b, torch.ones(10)) * made[ADVANTAGE]).sum()) == pytest.approx(0.0, abs=1e-6)
    assert len(rows) == 12 and float(a[leaf].mean()) == pytest.approx(
        (3 * 0.58333 - 5 * 0.416667 - 4 / 3) / 12, abs=1e-4
    )
    assert whitened(torch.tensor([2.0]), torch.tensor([1.0])).tolist() == [2.0]  # one token alone stays
    assert whitened(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 2.0])).tolist() == [0.0, 0.0]


# segments -------------------------------------------------------------------------------------------------------------


def segments(b: Batch, **options: Any) -> dict[str, float]:
    return by_name(b, run(SegmentAdvantage(whiten=False, **options), b)[ADVANTAGE])


def test_segments_by_hand() -> None:
    b = grown(FOUR)
    # Σn of every leaf: 4 + 2 + 1 = 7. r̃: c (4·.75 + 2·.5)/7 = 4/7, d (−1 − 1)/7 = −2/7, e and f −1/7
    c, d, e = 4 / 7, -2 / 7, -1 / 7
    va, vb = (c + d) / 2, e
    assert segments(b) == pytest.approx({"a": va, "b": vb, "c": c - va, "d": d - va, "e": 0.0, "f": 0.0}, abs=1e-6)
    got = segments(b, eta=0.5)  # last node: η; the first: η² · V(prompt) = 0
    assert got == pytest.approx({"a": va, "b": vb, "c": c - va / 2, "d": d - va / 2, "e": e / 2, "f": e / 2}, abs=1e-6)


def test_children_weigh_equally_whatever_their_leaves() -> None:
    b = grown([("a", 1, [("c", 1, [("e", 1, 1.0), ("f", 1, 1.0)]), ("d", 1, 0.0)])])
    r = dict(zip("efd", SegmentAdvantage()._against(b).tolist()))
    assert r["e"] == pytest.approx((3 / 3 + 3 / 3) / (3 + 3 + 2 + 1)) and r["d"] == pytest.approx(-4 / (3 + 3 + 1))
    va = (r["e"] + r["d"]) / 2  # not a third of (e + f + d)
    assert segments(b)["a"] == pytest.approx(va) and segments(b)["c"] == pytest.approx(r["e"] - va)


def test_where_the_first_segment_decides_the_others_have_no_credit() -> None:
    even = [("a", 1, [("c", 1, 1.0), ("d", 1, 1.0)]), ("b", 1, [("e", 1, 0.0), ("f", 1, 0.0)])]
    raw = segments(grown(even))
    assert {raw[x] for x in "cdef"} == {0.0} and raw["a"] == -raw["b"] > 0
    uneven = [("a", 1, [("c", 1, [("g", 1, 1.0), ("h", 1, 1.0)]), ("d", 1, 1.0)]), ("b", 1, 0.0)]
    assert any(abs(segments(grown(uneven))[x]) > 1e-3 for x in "cd")  # unequal Σn: the paper's own formula leaks


def test_degenerate_segments() -> None:
    assert segments(grown([("a", 2, 1.0)])) == {"a": 0.0}  # alone: against itself
    b = grown([("a", 1, [("c", 1, 1.0), ("d", 1, None)])])
    assert segments(b) == pytest.approx({"a": 0.0, "c": 0.0, "d": NAN}, nan_ok=True)
    assert b.size(TURN) == 4
