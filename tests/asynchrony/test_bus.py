"""The bus: every row once, whole groups, never before they are ready."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from temper import state
from temper.bus import Balanced, Bus, BusFull, Groups, Only, Tokens
from temper.carrier import Batch
from temper.errors import UserError
from temper.tasks.task import Task
from tests.core import hand


def bus(capacity: int = 0) -> Bus:
    return Bus({"stages": ("episode",), "train": ("batch",), "score": ("episode", "logp")}, capacity)


def opened(rows: dict[str, int], **options: Any) -> Bus:
    b = bus(**options)
    b.open("open", 0, {g: [f"{g}/{n}" for n in range(k)] for g, k in rows.items()})
    return b


def test_a_group_is_served_when_all_of_its_rows_have_all_fields() -> None:
    b = opened({"a": 2, "b": 1})
    assert b.put("episode", {"a/0": 1, "b/0": 2}) == 2
    assert b.ready("stages", 0) == ["b"] and b.ready("score", 0) == []
    b.put("logp", {"a/0": -1, "a/1": -2, "b/0": -3})
    assert b.ready("score", 0) == ["b"]
    b.put("episode", {"a/1": 3})
    assert b.ready("score", 0) == ["a", "b"]  # in the order of opening
    [one, two] = b.take("op", "score", 0, Groups(2))
    assert one == {"group": "a", "rows": ["a/0", "a/1"], "size": 0, "episode": {"a/0": 1, "a/1": 3},
                   "logp": {"a/0": -1, "a/1": -2}}  # fmt: skip
    assert two["group"] == "b" and b.ready("stages", 0) == ["a", "b"]  # other consumers have their own


def test_exactly_once() -> None:
    b = opened({"a": 1, "b": 1})
    assert b.put("episode", {"a/0": "first"}) == 1 and b.put("episode", {"a/0": "second"}) == 0
    taken = b.take("op", "stages", 0, Only("a"))
    assert taken[0]["episode"] == {"a/0": "first"}
    assert b.take("op", "stages", 0, Only("a")) == taken  # sent again: the same answer
    assert b.take("other", "stages", 0, Only("a")) == []  # never given twice
    b.put("batch", {"a": "judged"})
    assert b.put("batch", {"a": "again"}) == 0

    class Twice:
        def __call__(self, ready: Any, sealed: bool) -> list[list[str]]:
            return [["a", "a"]]

    with pytest.raises(UserError, match="group a was taken by 'train' already"):
        b.take("op2", "train", 0, Twice())
    assert b.take("op3", "train", 0, Only("a"))[0]["batch"] == "judged"
    with pytest.raises(UserError, match="group a was taken by 'train' already"):
        b.take("op4", "train", 0, Twice())
    b.open("open", 0, {"a": ["a/0"]})  # the same operation again
    with pytest.raises(UserError, match="group a is on the bus already"):
        b.open("open2", 0, {"a": ["a/0"]})


def test_values_leave_when_everybody_has_them() -> None:
    b = Bus({"stages": ("episode",), "look": ("episode",)})
    b.open("open", 0, {"a": ["a/0"]})
    b.put("episode", {"a/0": 1})
    b.take("1", "stages", 0, Only("a"))
    assert b.peek("a", "episode") == {"a/0": 1}
    b.take("2", "look", 0, Only("a"))
    assert b.peek("a", "episode") is None and b.put("episode", {"a/0": 2}) == 0


def test_dropped_rows_are_waited_for_no_longer() -> None:
    b = opened({"a": 2, "b": 1})
    b.put("episode", {"a/0": 1})
    b.drop(["a/1"])
    assert b.ready("stages", 0) == ["a"]
    b.drop(["b"])
    assert b.describe() == {"groups": 1, "rows": 1, "partitions": {0: 1}}
    assert b.put("episode", {"b/0": 1, "a/1": 1, "nobody": 1}) == 0  # too late


def test_capacity_is_held_and_clearing_frees_it() -> None:
    b = bus(capacity=4)
    b.open("0", 0, {"a": ["a/0"], "b": ["b/0"]})
    b.open("1", 1, {"c": ["c/0"], "d": ["d/0"]})
    with pytest.raises(BusFull, match="the bus holds 4 groups and has room for 4: 1 more fit once"):
        b.open("2", 2, {"e": ["e/0"]})
    b.clear(0)
    b.open("2", 2, {"e": ["e/0"]})
    b.seal(1)
    with pytest.raises(UserError, match="step 1 was sealed"):
        b.open("3", 1, {"f": ["f/0"]})
    with pytest.raises(UserError, match=r"unknown consumer 'trian'; did you mean train\?"):
        b.ready("trian", 0)


def test_choices() -> None:
    b = opened(dict.fromkeys("abcde", 1))
    b.put("episode", {f"{g}/0": g for g in "abcd"}, {"a/0": 5, "b/0": 4, "c/0": 9, "d/0": 1})
    assert b.take("1", "stages", 0, Groups(5)) == []  # waits: not so many, and not sealed
    assert b.take("1", "stages", 0, Groups()) == []
    assert [t["group"] for t in b.take("1", "stages", 0, Tokens(9))] == ["a", "b"]
    assert [t["group"] for t in b.take("2", "stages", 0, Tokens(8))] == ["c"]  # alone: it is longer than the budget
    assert b.take("3", "stages", 0, Tokens(8)) == []
    b.drop(["e"])
    b.seal(0)
    assert [t["group"] for t in b.take("3", "stages", 0, Tokens(8))] == ["d"]
    full = Bus({"train": ("batch",)})
    full.open("open", 0, {g: [g + "/0"] for g in "abcd"})
    full.put("batch", dict.fromkeys("abcd", 0), {"a": 5, "b": 4, "c": 9, "d": 1})
    shares = [[t["group"] for t in full.take("deal", "train", 0, Balanced(4, 2), replica=r)] for r in (0, 1)]
    assert shares == [["c", "d"], ["a", "b"]]  # 10 and 9 tokens, each in order
    with pytest.raises(UserError, match="replica 2 asked for its share of 'deal', which was dealt to 2"):
        full.take("deal", "train", 0, Balanced(4, 2), replica=2)


def test_a_bus_that_was_saved_goes_on(tmp_path: Any) -> None:
    """With batches, episodes, operations and half-landed groups; through a file that holds plain data only."""
    episode = hand.chain(Task("t", "x"), "a", 2, 1.0)
    b = opened({"a": 1, "b": 2, "c": 1})
    b.put("episode", {"a/0": episode, "b/0": episode, "c/0": episode}, {"a/0": 7})
    b.take("s a", "stages", 0, Only("a"))
    b.put("batch", {"a": Batch.of([episode])})
    file = tmp_path / "bus.pt"
    torch.save(state._encode(b.state_dict()), file)
    again = bus()
    again.load_state_dict(state._decode(torch.load(file, weights_only=True)))
    assert again.take("s a", "stages", 0, Only("a"))[0]["episode"] == {"a/0": episode}
    assert again.ready("stages", 0) == ["c"] and again.ready("train", 0) == ["a"]
    again.put("episode", {"b/1": episode, "b/0": "not again"})
    assert again.peek("b", "episode") == {"b/0": episode, "b/1": episode}
    [row] = again.take("t", "train", 0, Only("a"))
    assert row["size"] == 7 and torch.equal(row["batch"].structure.ids, Batch.of([episode]).structure.ids)


def test_any_order_of_landing_gives_every_group_once() -> None:
    """Rows land in random order between takes of random size, with operations sent twice."""
    for seed in range(20):
        draw = random.Random(seed)
        b = Bus({"stages": ("episode",), "train": ("episode", "batch")})
        rows = {f"g{i}": [f"g{i}/{n}" for n in range(draw.randint(1, 4))] for i in range(12)}
        b.open("o", 3, rows)
        todo = [r for group in rows.values() for r in group]
        draw.shuffle(todo)
        seen: dict[str, list[str]] = {"stages": [], "train": []}
        for n, row in enumerate([*todo, *todo[:5]]):
            b.put("episode", {row: row})
            if draw.random() < 0.5:
                b.put("batch", {g: g for g in rows})
            for consumer in seen:
                taken = b.take(f"{consumer} {n}", consumer, 3, Groups(draw.randint(1, 3)))
                if taken:
                    assert b.take(f"{consumer} {n}", consumer, 3, Groups(1)) == taken
                assert all(set(t["episode"]) == set(rows[t["group"]]) for t in taken)
                seen[consumer] += [t["group"] for t in taken]
        b.put("batch", {g: g for g in rows})
        b.seal(3)
        for consumer in seen:
            seen[consumer] += [t["group"] for t in b.take(f"{consumer} rest", consumer, 3, Groups())]
            assert sorted(seen[consumer]) == sorted(rows), consumer
        b.clear(3)
        assert b.describe() == {"groups": 0, "rows": 0, "partitions": {}} and b.state_dict()["done"] == {}
