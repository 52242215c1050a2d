"""SPO: segments that telescope, siblings that cancel, credit on the decisive segment, values that sharpen as 1/n."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TOKEN, TRAJECTORY, TURN, TURN_TEXT
from temper.envs.levels import Levels
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.methods.objectives.spo import spo
from temper.models.tiny import tiny_tokenizer
from temper.parts.advantages import Advantage
from temper.parts.edges import EdgeAdvantage, EdgeReplay
from temper.parts.segments import MaskCertain, SegmentCredit, cuts, telescoped
from temper.policy import Seat
from temper.recipes.spo import spo as recipe
from temper.stage import Compute
from temper.tasks.task import Task
from tests.core.hand import tree

UNSURE, SURE = math.log(0.5), math.log(0.95)


class Toy:
    """A policy whose answers are four letters, uniform over a and b; only the third decides: b is right."""

    def __init__(self, version: int = 0) -> None:
        self.tokenizer, self.version, self.asked = tiny_tokenizer(), version, list[tuple[int, ...]]()
        self.a, self.b = (self.tokenizer.encode(x, add_special_tokens=False)[0] for x in "ab")
        self.sampler = self

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        self.asked.append(ids)
        g = torch.Generator().manual_seed(params.seed % 2**31)
        said = tuple((self.a, self.b)[i] for i in torch.randint(2, (params.max_tokens,), generator=g).tolist())
        return Completion(said, (UNSURE,) * len(said), "length", self.version, text=self.tokenizer.decode(said))


def right(b: Batch) -> torch.Tensor:
    return torch.tensor([float(b[TURN_TEXT][b.turns_of(j)[-1]][2:3] == "b") for j in range(b.size(TRAJECTORY))])


JUDGE = Compute(REWARD, right)


def group(policy: Toy, answers: list[str], logp: tuple[float, ...] = (UNSURE,) * 4, version: int = 0) -> Batch:
    made = []
    for text in answers:
        ids = tuple(policy.tokenizer.encode(text, add_special_tokens=False))
        record = Recorder(Task("t", "?"))
        prompt = record.add((5, 6), text="?")
        turn = record.sampled(Completion(ids, logp, "length", version, text=text), prompt)
        record.judge([prompt, turn])
        made.append(replace(record.episode(), request="1:t"))
    return asyncio.run(JUDGE(Batch.of(made)))


def credit(policy: Toy, b: Batch, **how: Any) -> Batch:
    how = {"every": 1, "sampling": SamplingParams(max_tokens=4), **how}
    return asyncio.run(SegmentCredit(policy, [JUDGE], **how)(b))


def test_cuts() -> None:
    p = torch.tensor([0.5, 0.95, 0.5, 0.5, 0.9, 0.5, torch.nan, 0.5])
    assert cuts(p, 0.9, 1, False) == [0, 2, 3, 5, 7]
    assert cuts(p, 0.9, 2, False) == [2, 5] and cuts(p, 0.9, 2, True) == [0, 2, 5]
    assert cuts(p, 0.9, 6, False) == [] and cuts(p, 0.9, 1, True) == [0, 2, 3, 5, 7]
    assert cuts(torch.tensor([0.9 - 1e-9, 0.8]), 0.9, 1, False) == [1]  # what differs by rounding is the same


def test_segments_telescope_and_no_cut_is_no_credit() -> None:
    places, values = [0, 2, 5], [0.25, 0.5, 0.75]
    a = telescoped(places, values, 1.0, 7)
    assert a.tolist() == [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]
    assert a[places].sum().item() == 1.0 - 0.25
    assert telescoped([3], [0.25], 1.0, 5).tolist() == [0.0, 0.0, 0.0, 0.75, 0.75]
    assert telescoped([], [], 1.0, 3).tolist() == [0.0] * 3


def test_credit_concentrates_on_the_decisive_token_where_grpo_spreads_it() -> None:
    policy = Toy()
    b = group(policy, ["abba", "abaa"])
    a = credit(policy, b, continuations=48)[ADVANTAGE].view(2, 4)
    assert a[:, 2].tolist() == pytest.approx([0.5, -0.5], abs=0.15)
    assert float(a[:, 3].abs().max()) == 0.0 and float(a[:, :2].abs().max()) < 0.2
    assert float(a[0].sum() - a[1].sum()) == pytest.approx(1.0)  # r − V(prompt): the same prompt, rewards 1 and 0
    spread = asyncio.run(Advantage()(b))[ADVANTAGE].view(2, 4)
    assert all(len(set(row)) == 1 for row in spread.tolist())


def test_equal_beginnings_are_continued_once_and_draws_do_not_depend_on_the_group() -> None:
    policy = Toy()
    both = credit(policy, group(policy, ["abba", "abaa"]), continuations=2)[ADVANTAGE]
    assert len(policy.asked) == 2 * (4 + 1)  # "", a, ab; then abb and aba
    alone = credit(Toy(), group(policy, ["abba"]), continuations=2)[ADVANTAGE]
    assert torch.equal(both[:4], alone)


def test_the_variance_of_a_value_falls_with_the_continuations() -> None:
    policy = Toy()
    b = group(policy, ["bbbb"])

    def variance(n: int) -> float:
        found = [credit(policy, b, continuations=n, every=1, from_prompt=True, seed=s)[ADVANTAGE] for s in range(60)]
        return float(torch.stack([1 - a[:4].sum() for a in found]).var())  # of V(prompt) = r − Σ A

    assert variance(1) / variance(9) == pytest.approx(9, rel=0.6)


def test_weights_of_another_version_say_nothing() -> None:
    policy = Toy(version=3)
    assert bool(credit(policy, group(policy, ["abba"]))[ADVANTAGE].isnan().all())
    assert bool(credit(policy, group(policy, ["abba"], version=3))[ADVANTAGE].isfinite().all())


def test_unjudged_attempts_and_demonstrations_have_no_credit() -> None:
    policy = Toy()
    b = group(policy, ["abba", "abaa"])
    b = b.put(REWARD, torch.tensor([torch.nan, 0.0]))
    a = credit(policy, b)[ADVANTAGE]
    assert bool(a[:4].isnan().all()) and bool(a[4:].isfinite().all())


def test_certain_tokens_leave_the_denominator() -> None:
    policy = Toy()
    b = group(policy, ["abba"], (UNSURE, SURE, UNSURE, SURE)).put(ADVANTAGE, torch.ones(4))
    masked = asyncio.run(MaskCertain()(b))
    assert masked[ADVANTAGE].isnan().tolist() == [False, True, False, True]
    (term,) = spo(policy).terms
    assert term.weights(masked).tolist() == [0.5, 0.0, 0.5, 0.0]


def test_sibling_edges_sum_to_zero() -> None:
    """The hand-made tree: a stem, then leaves rewarded 1, 0 and 0; the stem is its prompt's only child."""
    b = asyncio.run(EdgeAdvantage()(tree()))
    a = b.mean(b[ADVANTAGE], TOKEN, TURN)
    assert a[1:].tolist() == pytest.approx([0.0, 2 / 3, -1 / 3, -1 / 3]) and float(a[2:].sum()) == pytest.approx(0.0)
    scaled = asyncio.run(EdgeAdvantage(scale=True)(tree()))
    assert float(scaled.mean(scaled[ADVANTAGE], TOKEN, TURN)[2]) == pytest.approx((2 / 3) / math.sqrt(2 / 9))


def test_a_nodes_value_is_the_mean_over_children_not_over_leaves() -> None:
    record = Recorder(Task("t", "?"))
    root = record.add((1, 2))
    one = record.sampled(Completion((3,), (-1.0,)), root)
    two = record.sampled(Completion((4,), (-1.0,)), root)
    for parent, rewards in ((one, (1.0, 1.0, 0.0)), (two, (0.0,))):
        for n, r in enumerate(rewards):
            leaf = record.sampled(Completion((10 + n,), (-1.0,)), parent)
            record.judge([root, parent, leaf], reward=r)
    b = asyncio.run(EdgeAdvantage()(Batch.of([record.episode()])))
    a = b.mean(b[ADVANTAGE], TOKEN, TURN)
    assert a[[one, two]].tolist() == pytest.approx([1 / 3, -1 / 3])  # V = 2/3 and 0, of the prompt 1/3 (not 1/2)


def test_edges_become_samples_without_their_prefix() -> None:
    stage = EdgeReplay()
    out = asyncio.run(stage(asyncio.run(EdgeAdvantage()(tree()))))
    assert out.size(TRAJECTORY) == out.size(GROUP) == 3  # the stem's edge has no credit
    assert out.size(TOKEN) == 1 + 2 + 3
    assert out.turn_ids(out.turns_of(1)[0]) == [1, 2, 3, 10, 11] and out.turn_ids(out.turns_of(1)[1]) == [30, 31]
    assert out[ADVANTAGE].tolist() == pytest.approx([2 / 3] + [-1 / 3] * 5)
    assert out[REWARD].tolist() == [1.0, 0.0, 0.0]


def test_edges_wait_grow_old_and_are_restored() -> None:
    b = asyncio.run(EdgeAdvantage()(tree()))
    stage, trained, waiting = EdgeReplay(age=1, most=1), [], []
    for _ in range(4):
        out = asyncio.run(stage(b))
        trained.append(out.size(TRAJECTORY))
        waiting.append([e["step"] for e in stage.waiting])
    assert trained == [1, 2, 2, 2]  # one of each tree; three edges of it have credit
    assert waiting == [[1, 1], [1, 2, 2], [2, 3, 3], [3, 4, 4]]  # the last one of a tree is too old
    other = EdgeReplay(age=1, most=1)
    other.load_state_dict(stage.state_dict())
    one, two = (asyncio.run(s(b)) for s in (stage, other))
    assert torch.equal(one.structure.ids, two.structure.ids) and torch.equal(one[ADVANTAGE], two[ADVANTAGE])
    flat = b.put(ADVANTAGE, torch.zeros(b.size(TOKEN)))
    assert asyncio.run(EdgeReplay()(flat)).size(TRAJECTORY) == 3  # nothing to learn: the batch as it was


def test_levels() -> None:
    policy: Any = Toy()
    seat = Seat("solver", policy, SamplingParams(max_tokens=5), 0, ("t",))
    seat.chat = lambda messages, **_: (5, 6)  # type: ignore[method-assign]
    episode: Episode = asyncio.run(Levels((2, 3, 2), 2).play(Task("t", "?"), {"solver": seat}))
    assert len(episode.trajectories) == 12 and len(policy.asked) == 2 + 6 + 12
    assert {len(t.turns) for t in episode.trajectories} == {4}
    assert {sum(len(episode.turns[u].ids) for u in t.turns[1:]) for t in episode.trajectories} == {5}
    with pytest.raises(UserError, match="at least 1"):
        Levels(())


def test_the_chain_refuses_older_weights() -> None:
    with pytest.raises(UserError, match="leave out ahead"):
        recipe(ahead=1)
