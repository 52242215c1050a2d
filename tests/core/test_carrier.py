"""The carrier: its verbs on rows worked by hand, its errors, and its way to records and back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import temper
from temper.bridge import to_episodes
from temper.carrier import Batch
from temper.columns import (
    ADVANTAGE,
    AUTHOR,
    FINISH,
    GROUP,
    INFO,
    LOGP,
    REWARD,
    ROLE,
    TASK,
    TOKEN,
    TRAJECTORY,
    TURN,
    VERSION,
    Column,
    Level,
    anything,
    boolean,
    floating,
    integer,
)
from temper.episode import ENV, Episode, Recorder, Trajectory
from tests.core import hand

NAN = math.nan
LEVELS = (TOKEN, TURN, TRAJECTORY, GROUP)
X = Column("x", TOKEN, floating)
COUNTED = Column("counted", TRAJECTORY, integer)


def same(a: Tensor, b: list[float]) -> None:
    torch.testing.assert_close(a, torch.tensor(b), equal_nan=True, check_dtype=False)


# verbs on rows worked by hand ----------------------------------------


def test_sizes_of_ragged_rows() -> None:
    b = hand.ragged()
    assert [b.size(level) for level in LEVELS] == [8, 7, 5, 2]  # a prompt is stored once a group
    same(b.count(TOKEN, TRAJECTORY), [2, 1, 3, 1, 1])
    same(b.count(TRAJECTORY, GROUP), [2, 3])
    assert b.turn_ids(0) == [1, 2, 3] and b.turns_of(1) == [0, 2]
    assert b.token_ids.tolist() == [10, 11, 10, 10, 11, 12, 10, 10]


def test_up_and_down_on_ragged_rows() -> None:
    b = hand.ragged()
    x = torch.tensor([1.0, 3.0, 5.0, 2.0, 4.0, 9.0, NAN, 7.0])
    same(b.sum(x, TOKEN, TRAJECTORY), [4, 5, 15, NAN, 7])
    same(b.mean(x, TOKEN, TRAJECTORY), [2, 5, 5, NAN, 7])
    same(b.mean(x, TOKEN, GROUP), [3, 22 / 4])  # over tokens, not a mean of the trajectories' means
    same(b.sum(x, TOKEN, GROUP), [9, 22])
    reward = b[REWARD]
    same(reward, [1, 0, 1, NAN, 0])
    centred = reward - b.spread(b.mean(reward, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
    same(centred, [0.5, -0.5, 0.5, NAN, -0.5])
    same(b.spread(centred, TRAJECTORY, TOKEN), [0.5, 0.5, -0.5, 0.5, 0.5, 0.5, NAN, -0.5])


def test_a_shared_turn_gets_the_mean_of_its_branches() -> None:
    b = hand.tree()
    same(b.at(REWARD, TOKEN), [1 / 3, 1 / 3, 1, 0, 0, 0, 0, 0])
    same(b.spread(b[REWARD], TRAJECTORY, TOKEN, how="sum"), [1, 1, 1, 0, 0, 0, 0, 0])
    same(b.count(TOKEN, TRAJECTORY), [3, 4, 5])  # the stem's tokens count for every branch
    partly = b.put(REWARD, torch.tensor([1.0, NAN, 0.0]))
    same(partly.at(REWARD, TOKEN), [0.5, 0.5, 1, NAN, NAN, 0, 0, 0])
    same(b.put(REWARD, torch.full((3,), NAN)).at(REWARD, TURN), [NAN] * 5)


def test_a_context_reset_is_one_trajectory() -> None:
    b = hand.reset()
    assert b.size(TRAJECTORY) == 2 and b.turns_of(0) == [0, 1, 2, 3]
    same(b.count(TOKEN, TRAJECTORY), [5, 4])
    assert b.structure.parent.tolist() == [-1, 0, -1, 2, 0]


def test_trajectories_without_tokens_sum_to_zero_and_have_no_mean() -> None:
    record = Recorder(hand.TASK_A)
    prompt = record.add([1, 2])
    record.judge([prompt])
    record.judge([])
    b = Batch.of([record.episode(), hand.chain(hand.TASK_A, "0", 2)])
    ones = torch.ones(b.size(TOKEN))
    same(b.sum(ones, TOKEN, TRAJECTORY), [0, 0, 2])
    same(b.mean(ones, TOKEN, TRAJECTORY), [NAN, NAN, 1])
    same(b.count(TURN, TRAJECTORY), [1, 0, 2])


def test_whole_numbers_have_sums_and_means() -> None:
    b = hand.ragged()
    x = torch.arange(8)
    assert b.sum(x, TOKEN, TRAJECTORY).tolist() == [1, 2, 12, 6, 7]
    same(b.mean(x, TOKEN, TRAJECTORY), [0.5, 2, 4, 6, 7])
    same(b.at(VERSION, TOKEN), [0] * 8)


def test_rows_of_vectors_are_left_out_whole() -> None:
    b = hand.ragged()
    x = torch.tensor([[1.0, 2.0], [NAN, 4.0], [5.0, 6.0], [0.0, 0.0], [0.0, 0.0], [3.0, 3.0], [1.0, 1.0], [2.0, NAN]])
    same(b.mean(x, TOKEN, TRAJECTORY)[0], [1, 2])  # the second row is absent, not half there
    assert b.mean(x, TOKEN, TRAJECTORY)[4].isnan().all()
    same(b.sum(x, TOKEN, TRAJECTORY)[2], [3, 3])


def test_by_groups_along_any_key() -> None:
    b = hand.ragged()
    key = b.by(["x", "y", "x", "x", "y"], TRAJECTORY)
    assert key.keys == ("x", "y") and key.index.tolist() == [0, 1, 0, 0, 1]
    same(key.mean(b[REWARD]), [1, 0])  # the unjudged row is left out
    same(key.count(b[REWARD]), [2, 2])
    same(key.spread(key.sum(b[REWARD])), [2, 0, 2, 2, 0])
    same(b.by(ROLE, TRAJECTORY).mean(b[REWARD]), [0.5])
    empty = b.by(torch.tensor([0, 0, 0, 1, 0]), TRAJECTORY).mean(b[REWARD])
    assert empty[1].isnan()
    with pytest.raises(ValueError, match="a key of 5 values cannot group 8 TOKEN rows"):
        b.by(ROLE, TOKEN)


# reading and writing ----------------------------------------


def test_a_missing_column_names_what_exists() -> None:
    b = hand.ragged()
    with pytest.raises(KeyError) as error:
        b[ADVANTAGE]
    assert "column 'advantage' has not been written; written: allowed, author" in str(error.value)
    with pytest.raises(KeyError, match="'reward' is a TRAJECTORY column, read as TOKEN"):
        b[Column("reward", TOKEN, floating)]
    assert REWARD in b and REWARD.of("length") not in b


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        (ADVANTAGE, torch.zeros(5), "'advantage' has 5 values for 8 TOKEN rows"),
        (ADVANTAGE, torch.zeros(8, dtype=torch.int64), "'advantage' is declared floating, got torch.int64"),
        (ADVANTAGE, [0.0] * 8, "'advantage' is declared floating, got list"),
        (COUNTED, torch.zeros(5), "'counted' is declared integer, got torch.float32"),
        (Column("gate", GROUP, boolean), torch.ones(2), "'gate' is declared boolean, got torch.float32"),
        (INFO, torch.zeros(5), "'info' is declared anything, got torch.float32"),
    ],
)
def test_put_checks_length_and_dtype(column: Column, values: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        hand.ragged().put(column, values)


def test_put_leaves_the_old_batch_alone_and_traces() -> None:
    b = hand.ragged()
    trace: set[tuple[str, str]] = set()
    after = b.traced(trace).put(ADVANTAGE, torch.zeros(8))
    assert ADVANTAGE in after and ADVANTAGE not in b
    _ = after.select(torch.ones(5, dtype=torch.bool))[REWARD]
    assert trace == {("write", "advantage"), ("read", "reward")}
    assert ADVANTAGE.of("old").name == "advantage@old" and ADVANTAGE.of("old").level == TOKEN


# rows in, rows out ----------------------------------------


def contents(b: Batch) -> dict[str, object]:
    """Everything in a batch as plain data."""
    s = b.structure
    tables = {n: getattr(s, n).tolist() for n in ("ids", "start", "parent", "sampled", "member", "group")}
    columns = {c.name: repr(b[c].tolist() if isinstance(b[c], Tensor) else b[c]) for c in b.columns}
    return {**tables, "groups": s.groups, **columns}


def test_select_keeps_turns_and_what_they_had_in_context() -> None:
    b = hand.ragged().put(X, torch.arange(8.0))
    part = b.select(torch.tensor([False, True, True, False, False]))
    assert [part.size(level) for level in LEVELS] == [4, 4, 2, 2]
    same(part[X], [2, 3, 4, 5])
    assert part.turns_of(0) == [0, 1] and part.turn_ids(1) == [10]
    assert [t.id for t in part[TASK]] == ["a", "b"]
    one = b.select(torch.tensor([False, True]), GROUP)
    assert one.size(TRAJECTORY) == 3 and [t.id for t in one[TASK]] == ["b"]
    none = b.select(torch.zeros(5, dtype=torch.bool))
    assert [none.size(level) for level in LEVELS] == [0, 0, 0, 0]


def test_a_turn_that_is_only_context_has_no_token_rows() -> None:
    b = hand.dialogue().put(X, torch.tensor([1.0, 2.0, 3.0]))
    verifier = b.select(torch.tensor([False, True]))
    assert verifier.size(TURN) == 4 and verifier.size(TOKEN) == 1  # the solver's answer is seen, and not trained on
    same(verifier[X], [3])
    assert verifier[AUTHOR] == [ENV, "solver", ENV, "verifier"]
    assert verifier.structure.sampled.tolist() == [False, False, False, True]
    again = Batch.of(to_episodes(verifier))
    assert contents(again)["sampled"] == [False, False, False, True]


def test_a_sampled_turn_that_nobody_is_judged_by_has_no_token_rows() -> None:
    record = Recorder(hand.TASK_A)
    record.turns += [hand.turn(3, -1, ENV, 1), hand.turn(2, 0), hand.turn(4, 0)]
    record.judge([0, 1])
    assert Batch.of([record.episode()]).size(TOKEN) == 2


def test_concat_of_selected_parts_is_the_whole() -> None:
    for b in (hand.ragged(), hand.reset()):
        parts = [b.select(torch.tensor([g == k for g in range(b.size(GROUP))]), GROUP) for k in range(b.size(GROUP))]
        assert contents(Batch.concat(parts)) == contents(b)


def test_concat_fills_what_is_missing() -> None:
    vector = Column("vector", TOKEN, floating)
    a = hand.ragged().put(ADVANTAGE, torch.ones(8)).put(vector, torch.ones((8, 2)))
    note = Column("note", GROUP, anything)
    b = hand.tree().put(note, ["n"])
    both = Batch.concat([a, b])
    assert both.size(GROUP) == 3 and both[note] == [None, None, "n"]
    same(both[ADVANTAGE], [1.0] * 8 + [NAN] * 8)
    assert both[vector].shape == (16, 2) and both[vector][8:].isnan().all()
    with pytest.raises(ValueError, match=r"'counted' \(integer\) is missing from some of the batches"):
        Batch.concat([a.put(COUNTED, torch.zeros(5, dtype=torch.int64)), b])


# records and back ----------------------------------------


@pytest.mark.parametrize("make", [hand.ragged, hand.tree, hand.reset, hand.dialogue])
def test_batch_to_episodes_and_back(make: object) -> None:
    b = make()  # type: ignore[operator]
    assert contents(Batch.of(to_episodes(b))) == contents(b)


def test_groups_are_request_by_role() -> None:
    b = hand.dialogue()
    assert b.size(GROUP) == 2 and b[ROLE] == ["solver", "verifier"]
    twice = Batch.of([hand.chain(hand.TASK_A, "1", 2), hand.chain(hand.TASK_A, "2", 2)])
    assert twice.size(GROUP) == 2 and twice.size(TURN) == 4  # another request: another group, nothing shared


def test_demonstrations_have_no_behaviour_log_probs() -> None:
    shown = Episode(
        hand.TASK_A, (hand.turn(3, -1, ENV, 1), hand.turn(2, 0, logp=None)), (Trajectory((0, 1)),), "1"
    )  # fmt: skip
    assert LOGP.of("behaviour") not in Batch.of([shown])
    mixed = Batch.of([shown, hand.chain(hand.TASK_A, "1", 1)])
    same(mixed[LOGP.of("behaviour")], [NAN, NAN, -1])
    assert mixed[FINISH] == [None, None, "stop"]


def test_episode_to_jsonl_and_back() -> None:
    for b in (hand.ragged(), hand.tree(), hand.dialogue()):
        for e in to_episodes(b):
            assert Episode.from_json(json.loads(json.dumps(e.to_json()))) == e
    cut = Trajectory((0,), rewards={"length": 0.5}, outcome="timeout", info={"note": [1, 2]})
    t = hand.turn(2, -1)
    t = type(t)(t.ids, -1, "solver", logp=(-0.1, -0.2), support=((1, 2), (3,)), allowed=(1, 2, 3))
    e = Episode(hand.TASK_A, (t,), (cut,), "9", "eval")
    assert Episode.from_json(json.loads(json.dumps(e.to_json()))) == e


def test_recorder_refuses_a_parent_that_is_not_there() -> None:
    record = Recorder(hand.TASK_A)
    record.add([1])
    with pytest.raises(ValueError, match=r"parent 3 is not an earlier turn \(there are 1\)"):
        record.add([2], parent=3)
    assert record.context(record.add([2, 3], parent=0)) == (1, 2, 3)


# properties ----------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Random forests of turns, with trajectories over random paths of them (possibly several, possibly none)."""
    episodes = []
    for e in range(draw(st.integers(1, 3))):
        record = Recorder(hand.TASK_A)
        for u in range(draw(st.integers(1, 6))):
            author = ENV if u == 0 else draw(st.sampled_from([ENV, "solver"]))
            record.turns.append(hand.turn(draw(st.integers(0, 3)), draw(st.integers(-1, u - 1)), author, 10 * u))
        for _ in range(draw(st.integers(1, 3))):
            path, at = [], draw(st.integers(-1, len(record.turns) - 1))
            while at >= 0:
                path.append(at)
                at = record.turns[at].parent
            record.judge(path[::-1], role=draw(st.sampled_from(["solver", "other"])))
        episode = record.episode()
        episodes.append(Episode(episode.task, episode.turns, episode.trajectories, str(e % 2)))
    return Batch.of(episodes)


PAIRS = [(lo, hi) for lo in LEVELS for hi in LEVELS if lo < hi]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches(), st.sampled_from(PAIRS), st.integers(0, 1000))
def test_sum_and_spread_are_adjoint(b: Batch, pair: tuple[Level, Level], seed: int) -> None:
    """<sum(x), y> = <x, spread(y)> with shares added up: credit is neither made nor lost."""
    lo, hi = pair
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(b.size(lo), generator=g, dtype=torch.float64)
    y = torch.rand(b.size(hi), generator=g, dtype=torch.float64)
    up, down = b.sum(x, lo, hi), b.spread(y, hi, lo, how="sum").nan_to_num(nan=0.0)
    torch.testing.assert_close((up * y).sum(), (x * down).sum())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches(), st.sampled_from(PAIRS))
def test_a_constant_survives_every_way(b: Batch, pair: tuple[Level, Level]) -> None:
    lo, hi = pair
    down = b.spread(torch.full((b.size(hi),), 2.0), hi, lo)
    assert bool(((down == 2) | down.isnan()).all())  # NaN: a turn of no trajectory
    up = b.mean(torch.full((b.size(lo),), 2.0), lo, hi)
    assert bool(((up == 2) | (b.count(lo, hi) == 0)).all())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches())
def test_concat_of_all_groups_loses_nothing(b: Batch) -> None:
    groups = [b.select(torch.arange(b.size(GROUP)) == g, GROUP) for g in range(b.size(GROUP))]
    whole = Batch.concat(groups)
    assert whole.size(TRAJECTORY) == b.size(TRAJECTORY)
    assert whole.count(TOKEN, GROUP).tolist() == b.count(TOKEN, GROUP).tolist()
    assert contents(b.select(torch.ones(b.size(TRAJECTORY), dtype=torch.bool)))["ids"] == kept_ids(b)


def kept_ids(b: Batch) -> list[int]:
    """The ids of turns that some trajectory has, or had in context."""
    s, needed = b.structure, set(b.structure.member[0].tolist())
    for u in sorted(needed):
        while u >= 0:
            needed.add(u)
            u = int(s.parent[u])
    return [i for u in sorted(needed) for i in b.turn_ids(u)]


def test_the_core_stays_small() -> None:
    package = Path(temper.__file__).parent
    for name, most in (("loop.py", 150), ("carrier.py", 350)):
        assert len((package / name).read_text().splitlines()) <= most
