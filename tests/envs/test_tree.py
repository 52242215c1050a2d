"""Trees of continuations: forks by ids, exact cuts, and what the learner computes once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import FINISH, GROUP, LOGP, TOKEN, TRAJECTORY, TURN_TEXT
from temper.envs.branching import BLOCK, Branching, boxed, repetition
from temper.envs.budgets import budget, by_weight, evenly, likelihoods
from temper.envs.tree import Node, Tree, split
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.models.tiny import tiny_tokenizer
from temper.policy import Policy, Seat
from temper.tasks.task import Task
from tests.seams import toys

TASK = Task("t", "say ab", "ab")
Say = Callable[[int, tuple[int, ...], SamplingParams], Completion]


def seat_of(say: Say, context: int = 10_000) -> Seat:
    """A seat whose n-th sample is `say(n, context, params)`."""
    asked: list[tuple[int, ...]] = []

    async def sample(ids: tuple[int, ...], params: SamplingParams) -> Completion:
        asked.append(ids)
        return say(len(asked) - 1, ids, params)

    sampler = SimpleNamespace(sample=sample, context=context, asked=asked)
    policy: Any = SimpleNamespace(sampler=sampler, tokenizer=tiny_tokenizer(), model="actor")
    return Seat("solver", policy, SamplingParams(), 0, ("t",))


def letters(n: int, ids: tuple[int, ...], params: SamplingParams) -> Completion:
    """Full segments, each of its own letter, with log-probs that tell the tokens apart."""
    return said(chr(97 + n % 26) * params.max_tokens, start=n)


def said(text: str, finish: str = "length", start: float = 0.0) -> Completion:
    ids = tuple(tiny_tokenizer().encode(text, add_special_tokens=False))
    end = (tiny_tokenizer().eos_token_id,) if finish == "stop" else ()
    logp = tuple(-(start + 1) - i / 100 for i in range(len(ids + end)))
    return Completion(ids + end, logp, finish, version=3, text=text)


def play(env: Branching, say: Say, **options: Any) -> tuple[Episode, Seat]:
    seat = seat_of(say, **options)
    return asyncio.run(env.play(TASK, {"solver": seat})), seat


# the machinery --------------------------------------------------------------------------------------------------------


def test_a_segment_is_split_by_ids() -> None:
    support = ((1, 2), (3,), (4,), (5,))
    whole = Completion((10, 11, 12, 13), (-1.0, -2.0, -3.0, -4.0), "stop", 7, 0.5, support, (9, 10), "abcd")
    head, tail = split(whole, 1, SimpleNamespace(decode=lambda ids: "".join(chr(87 + i) for i in ids)))
    assert head.ids + tail.ids == whole.ids and head.logp + tail.logp == whole.logp
    assert (head.support, tail.support) == (support[:1], support[1:]) and head.allowed == tail.allowed == (9, 10)
    assert {(x.version, x.temperature) for x in (head, tail)} == {(7, 0.5)}
    assert (head.text, tail.text, head.finish, tail.finish) == ("a", "bcd", "length", "stop")


def test_the_end_token_stays_out_of_the_text() -> None:
    tokenizer = tiny_tokenizer()
    head, tail = split(said("abc", "stop"), 2, tokenizer)
    assert (head.text, tail.text) == ("ab", "c") and tail.ids[-1] == tokenizer.eos_token_id
    again = split(tail, 1, tokenizer)
    assert (again[0].text, again[1].text) == ("c", "") and again[1].ids == (tokenizer.eos_token_id,)


async def _grown() -> tuple[Tree, Node, Node, Node]:
    """Two segments, a fork behind the first, and a third answer forked off inside the second."""
    tree = Tree(seat_of(letters), (1, 2, 3))
    (first,) = await tree.extend([tree.root], 4)
    one, two = await tree.extend([first, first], 4)
    inside = tree.cut(one, 6)
    (three,) = await tree.extend([inside], [3])
    return tree, one, two, three


def test_a_fork_inside_a_segment_keeps_every_answer_as_it_was() -> None:
    tree, one, two, three = asyncio.run(_grown())
    a, b, c, d = (tuple(tiny_tokenizer().encode(x, add_special_tokens=False)) for x in ("aaaa", "bbbb", "cccc", "ddd"))
    assert one.ids == a + b and two.ids == a + c and three.ids == a + b[:2] + d
    assert one.logp == pytest.approx([-1, -1.01, -1.02, -1.03, -2, -2.01, -2.02, -2.03], abs=1e-9)
    asked = tree.seat.policy.sampler.asked  # type: ignore[attr-defined]
    assert asked == [(1, 2, 3), (1, 2, 3, *a), (1, 2, 3, *a), (1, 2, 3, *a, *b[:2])]
    assert tree.text(three) == "aaaabbddd" and tree.calls == 4
    assert tree.cut(one, 0) is tree.root and tree.cut(one, 8) is one and tree.cut(one, 6) is one.parent
    with pytest.raises(ValueError, match="an answer of 8 tokens cannot be cut after 9"):
        tree.cut(one, 9)


def test_what_answers_share_is_recorded_once() -> None:
    tree, one, two, three = asyncio.run(_grown())
    record = Recorder(TASK)
    for turns in tree.record(record, [one, two, three], ["stop", "length", "stop"]):
        record.judge(turns)
    e = record.episode()
    assert [t.turns for t in e.trajectories] == [(0, 1, 2, 3), (0, 1, 4), (0, 1, 2, 5)]
    assert [t.parent for t in e.turns] == [-1, 0, 1, 2, 1, 2]
    b = Batch.of([e])
    assert (b.size(TOKEN), b.size(TRAJECTORY), b.size(GROUP)) == (4 + 2 + 2 + 4 + 3, 3, 1)
    assert b.count(TOKEN, TRAJECTORY).tolist() == [8, 8, 9]
    assert b[FINISH] == [None, None, None, "stop", "length", "stop"]
    assert [b[TURN_TEXT][u] for u in (3, 4, 5)] == ["aaaabbbb", "aaaacccc", "aaaabbddd"]  # what is judged


def test_log_probs_of_a_cut_tree_are_those_of_its_answers(exact_model: str) -> None:
    """ρ = 1 on every token, in float64: the learner sees heads and tails as the sampler saw the whole."""
    policy = Policy(model=exact_model, dtype="float64")
    policy.open()

    async def go() -> Batch:
        seat = Seat("solver", policy, SamplingParams(max_tokens=9, top_k=5), 0, ("t",))
        tree = Tree(seat, seat.chat(TASK.messages))
        (one,) = await tree.extend([tree.root], 9)
        two, three = await tree.extend([tree.cut(one, 4), tree.cut(one, 7)], 5)
        record = Recorder(TASK)
        for turns in tree.record(record, [one, two, three], ["stop"] * 3):
            record.judge(turns)
        assert [len(t.ids) for t in record.turns[1:]][:3] == [4, 3, 2]
        assert record.turns[2].support is not None and len(record.turns[2].support) == 3
        return Batch.of([record.episode()])

    b = asyncio.run(go())
    read = policy.learner.read(b, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(read.float(), b[BEHAVIOUR], atol=1e-6, rtol=0)


# growing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth, segments", [(4, 30), (5, 46), (14, 190)])
def test_segments_of_full_paths(depth: int, segments: int) -> None:
    """14 + 16 (K − 3) for width 16 and 2 forks; 16 K for independent answers: 190 against 224 at K = 14."""
    episode, _ = play(Branching(16, 4, depth, 2, repeated=(32, 0)), letters)
    assert episode.trajectories[0].info["segments"] == 14 + 16 * (depth - 3) == segments
    assert len(episode.trajectories) == 16 and len(episode.turns) - 1 == segments
    assert all(t.info["end"] == {"length": 1} and len(t.turns) == depth + 1 for t in episode.trajectories)
    assert episode.trajectories[0].info["tokens_per_leaf"] == 4 * segments / 16


def test_the_budget_of_answers_that_ended_goes_to_the_others() -> None:
    assert budget(live=2, finished=0, ended=0, width=16, branching=2) == 4
    assert budget(live=3, finished=1, ended=1, width=16, branching=2) == 8  # 2·3 + 2·1
    assert budget(live=6, finished=10, ended=2, width=16, branching=2) == 6  # no room: each goes on once
    assert budget(live=5, finished=14, ended=0, width=16, branching=2) == 5
    assert budget(live=5, finished=9, ended=0, width=16, branching=2) == 7


@pytest.mark.parametrize(
    "tokens, leaves, segments", [(0, 16, 46), (24, 4, 2 + 4 + 4 + 4 + 4), (4, 2, 10), (200, 16, 46)]
)
def test_a_budget_of_tokens_bounds_what_is_forked(tokens: int, leaves: int, segments: int) -> None:
    """Segments of 4: after 2 + 4 of them 24 tokens are spent, and each leaf goes on alone."""
    episode, _ = play(Branching(16, 4, 5, 2, tokens=tokens, repeated=(32, 0)), letters)
    info = episode.trajectories[0].info
    assert (len(episode.trajectories), info["segments"]) == (leaves, segments) and info["fallbacks"] == 0
    ended, _ = play(Branching(16, 4, 4, 2, tokens=24), ending(["abc"] * 9))
    assert len(ended.trajectories) == 2 + 4  # 8 tokens are spent, 4 more segments may be sampled, and then none


def test_how_a_budget_is_shared() -> None:
    assert evenly(7, 3) == [2, 2, 3] and evenly(2, 2) == [1, 1]
    assert by_weight([0.5, 0.3, 0.2], 8) == [1 + 3, 1 + 1, 1 + 1]  # 5 to share: 2.5, 1.5, 1.0; the first tie wins
    assert by_weight([0.9, 0.1], 2) == [1, 1]
    w = likelihoods(np.array([-1.0, -3.0]))
    assert w == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])
    leaves = [Node(said("ab", start=0.0)), Node(said("ab", start=9.0))]
    for share, want in (("unlikely", [1, 5]), ("likely", [5, 1])):
        env = Branching(16, 4, share=share, by="segment", tau=0.5)  # type: ignore[arg-type]
        forked = env._fork(leaves, 10, 3)  # budget: min(16 − 10, 2·2 + 2·3)
        assert [forked.count(n) for n in leaves] == want


def test_unlikelihood_of_whole_paths_and_their_means() -> None:
    tree = Tree(seat_of(letters), (1,))
    short, long = Node(said("a", start=1.0), tree.root), Node(said("aaa", start=0.0), tree.root)  # −2; −1 −1.01 −1.02
    assert Branching(by="path")._logp(short) == pytest.approx(-2.0)
    assert Branching(by="path")._logp(long) == pytest.approx(-3.03)
    assert Branching(by="mean")._logp(long) == pytest.approx(-1.01)
    assert Branching(by="segment")._logp(Node(said("a"), long)) == pytest.approx(-1.0)


def ending(texts: Sequence[str], finish: str = "stop") -> Say:
    """The texts in turn; whatever comes after them is a full segment."""
    return lambda n, ids, params: said(texts[n], finish) if n < len(texts) else letters(n, ids, params)


def ends(episode: Episode) -> list[str]:
    return [next(iter(t.info["end"])) for t in episode.trajectories]


def test_why_answers_end_and_in_which_order_it_is_looked_at() -> None:
    again = "x" * 39
    for options, want in (
        ({}, "repetition"),
        ({"repeated_first": False}, "answer"),
        ({"repeated": (32, 0)}, "answer"),
        ({"repeated": (32, 9)}, "answer"),  # 39 characters hold 8 of 32
    ):
        episode, _ = play(Branching(1, 64, 1, 1, answered=lambda text: "x" in text, **options), ending([again]))  # type: ignore[arg-type]
        assert ends(episode) == [want]
    box = r"\boxed{1}"
    for text, finish, options, want in (
        (box, "stop", {}, "answer"),
        ("none", "stop", {}, "eos"),
        (box, "length", {"answer_ends": True}, "answer"),
        ("none", "length", {"longest": 4}, "length"),
        ("none", "length", {}, "depth"),
        ("y" * 50, "length", {"repeated_first": False}, "depth"),
    ):
        env = Branching(1, 64, 1, 1, **options)  # type: ignore[arg-type]
        episode, _ = play(env, lambda n, ids, params: said(text, finish))  # noqa: B023
        assert ends(episode) == [want], (text, finish, options)
        assert episode.turns[-1].finish == ("stop" if want in ("answer", "eos") else "length")
    two = Branching(1, 8, 4, 1, repeated_first=False)
    episode, _ = play(two, ending([r"\boxed", "{1}"], "length"))
    assert ends(episode) == ["depth"]  # with answer_ends the box that straddles two segments would do
    episode, _ = play(Branching(1, 8, 4, 1, answer_ends=True), ending([r"\boxed", "{1}"], "length"))
    assert ends(episode) == ["answer"] and episode.turns[-1].text == r"\boxed{1}"


def test_a_repetition_and_a_box() -> None:
    assert repetition("ab" * 20, 32, 2) and not repetition("ab" * 16, 32, 2) and repetition("z" * 39, 32, 8)
    assert not repetition("z" * 38, 32, 8) and not repetition("", 32, 1) and not repetition("z" * 99, 32, 0)
    assert boxed(r"so \boxed{\frac{1}{2}}") and not boxed(r"\boxed{\frac{1}{2}") and not boxed("{}")


def test_finished_answers_are_cut_back_until_the_width_is_used() -> None:
    """Both first answers end at once: the tree goes on from where they are cut, and the width is filled."""
    episode, seat = play(Branching(6, 4, 4, 2), ending(["abcdefg", "hijklmn"]))
    info = episode.trajectories[0].info
    assert len(episode.trajectories) == 6 and info["fallbacks"] == 4 and ends(episode)[:2] == ["eos", "eos"]
    prompt = episode.turns[0].ids
    kept = {asked[len(prompt) :] for asked in seat.policy.sampler.asked[2:6]}  # type: ignore[attr-defined]
    firsts = [tiny_tokenizer().encode(x, add_special_tokens=False) for x in ("abcdefg", "hijklmn")]
    assert kept <= {(), *(tuple(f[:4]) for f in firsts)}  # whole segments only
    again, _ = play(Branching(6, 4, 4, 2), ending(["abcdefg", "hijklmn"]))
    assert again == episode


def test_without_a_candidate_the_tree_starts_again() -> None:
    """order "ended" takes no answer that ran out of room."""
    episode, seat = play(Branching(4, 4, 1, 2), letters)
    prompt = episode.turns[0].ids
    assert ends(episode) == ["length"] * 4 and seat.policy.sampler.asked == [prompt] * 4  # type: ignore[attr-defined]
    narrow, _ = play(Branching(1, 4, 2, 4), letters)
    assert len(narrow.trajectories) == 1 and narrow.trajectories[0].info["segments"] == 2


def test_where_an_answer_is_cut_back() -> None:
    rng = np.random.default_rng(0)
    tree = Tree(seat_of(letters), (1,))
    leaf = Node(Completion(tuple(range(10)), (-1.0, -1, -1, -9, -1, -1, -1, -1, -1, -1)), tree.root)
    whole = {Branching(segment=4)._at(leaf, rng) for _ in range(60)}
    assert whole == {0, 4, 8}
    assert Branching(segment=4, cut="unlikely token")._at(leaf, rng) == 3
    assert Branching(segment=1, depth=2, cut="unlikely token")._at(leaf, rng) == 1  # leaves room for a segment
    assert Branching(cut="start")._at(leaf, rng) == 0
    blocks = Node(Completion(tuple(range(3 * BLOCK)), (-1.0,) * BLOCK + (-99.0,) * BLOCK + (-1.0,) * BLOCK), tree.root)
    assert {Branching(cut="unlikely block")._at(blocks, rng) for _ in range(20)} == {BLOCK}
    assert {Branching(cut="likely block")._at(blocks, rng) for _ in range(40)} == {0, 2 * BLOCK}


def test_which_finished_answers_come_first() -> None:
    rng = np.random.default_rng(0)
    tree = Tree(seat_of(letters), (1,))
    short, long, spun = (Node(said(x), tree.root) for x in ("a", "a" * 60, "b"))
    finished = {short: "eos", long: "length", spun: "repetition"}
    assert Branching(order="worst")._ordered(finished, rng) == [spun, long, short]
    assert Branching(order="ended")._ordered(finished, rng) == [short]
    first = [Branching(order="long")._ordered(finished, rng)[0] for _ in range(50)]
    assert first.count(long) > 40
    first = [Branching(order="any")._ordered(finished, rng)[0] for _ in range(90)]
    assert all(15 < first.count(n) < 45 for n in finished)


def test_the_context_bounds_a_tree_and_options_are_checked() -> None:
    prompt = len(play(Branching(1, 4, 1, 1), letters)[0].turns[0].ids)
    episode, _ = play(Branching(2, 4, 9, 2), letters, context=prompt + 6)
    assert ends(episode) == ["length"] * 2 and all(len(t.turns) == 3 for t in episode.trajectories)
    drawn = {Branching(8, 4, 2, 2, first=5)._first(Task(f"t{i}", "?")) for i in range(60)}
    assert drawn == {2, 3, 4, 5}
    for options in ({"width": 0}, {"segment": 0}, {"first": 40}, {"first": 1}):
        with pytest.raises(UserError):
            Branching(**options)  # type: ignore[arg-type]


def test_a_tree_plays_the_same_twice(toy_model: str, tmp_path: Any) -> None:
    from temper.testing import check_env

    episode = check_env(Branching(5, 2, 3, 2), tmp_path, model=toy_model)
    assert len(episode.trajectories) == 5 and toys.TASKS
