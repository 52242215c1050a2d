"""Delethink: chunks by ids, one trajectory over all of them, and the loss of whole traces."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch

from temper.backends.base import AdamW, SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, FINISH, LOGP, REWARD, TOKEN, TRAJECTORY, TURN_TEXT
from temper.envs.chunked import Chunked
from temper.envs.single import SingleTurn
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.methods.objectives.grpo import grpo
from temper.methods.rollouts.markovian_thinker_delethink import TraceReward, markovian_thinker_delethink
from temper.models.tiny import tiny_tokenizer
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED
from temper.policy import Policy, Seat
from temper.tasks.task import Task
from tests.envs.test_tree import said, seat_of

TASK = Task("t", "say ab", "ab")


def play(env: Chunked, texts: list[tuple[str, str]]) -> tuple[Episode, Seat]:
    seat = seat_of(lambda n, ids, params: said(*texts[n]))
    return asyncio.run(env.play(TASK, {"solver": seat})), seat


def ids(text: str) -> tuple[int, ...]:
    return tuple(tiny_tokenizer().encode(text, add_special_tokens=False))


# chunks ---------------------------------------------------------------------------------------------------------------


def test_a_chunk_begins_with_the_question_the_head_and_the_tail() -> None:
    env = Chunked(chunk=8, carry=4, head=1, chunks=4)
    episode, seat = play(env, [("abcdefgh", "length"), ("ijkl", "length"), ("mn", "stop")])
    question = seat.chat(TASK.messages)
    assert seat.policy.sampler.asked == [  # type: ignore[attr-defined]
        question, (*question, *ids("a"), *ids("fgh")), (*question, *ids("a"), *ids("jkl"))
    ]  # fmt: skip
    (trajectory,) = episode.trajectories
    assert trajectory.turns == (0, 1, 2, 3, 4, 5) and trajectory.info == {"chunks": 3, "trace": 8 + 4 + 3}
    assert [t.parent for t in episode.turns] == [-1, 0, -1, 2, -1, 4]
    b = Batch.of([episode])
    assert b[FINISH] == [None, None, None, None, None, "stop"] and b.size(TOKEN) == 15
    assert b[TURN_TEXT][-1] == "abcdefghijklmn"  # an answer may straddle two chunks


def test_chunks_have_their_budgets() -> None:
    env = Chunked(chunk=8, carry=4, head=1, chunks=3)
    limits: list[int] = []

    def full(n: int, context: tuple[int, ...], params: SamplingParams) -> Completion:
        limits.append(params.max_tokens)
        return said("x" * params.max_tokens)

    episode = asyncio.run(env.play(TASK, {"solver": seat_of(full)}))
    assert limits == [8, 4, 4] and env.longest == 16 and episode.turns[-1].finish == "length"
    assert Chunked().longest == 24_576 and Chunked(chunks=23).longest == 98_304
    for options in ({"carry": 8}, {"head": 5, "carry": 4}, {"chunks": 0}):
        with pytest.raises(UserError):
            Chunked(**{"chunk": 8, "carry": 4, "head": 1, **options})


def test_what_is_carried() -> None:
    env = Chunked(chunk=8, carry=5, head=2)
    assert env.carried((1, 2, 3, 4, 5)) == (1, 2, 3, 4, 5) and env.carried((1, 2)) == (1, 2)
    assert env.carried((1, 2, 3, 4, 5, 6, 7)) == (1, 2, 5, 6, 7)
    assert Chunked(chunk=8, carry=3, head=3).carried((1, 2, 3, 4)) == (1, 2, 3)
    assert Chunked(chunk=8, carry=3, head=0).carried((1, 2, 3, 4)) == (2, 3, 4)


# one chunk is GRPO ----------------------------------------------------------------------------------------------------


def opened(model: str) -> Policy:
    policy = Policy(model=model, dtype="float64", optimizer=AdamW(lr=1e-3))
    policy.open()
    return policy


def played(policy: Policy, env: Any, longest: int) -> Batch:
    params = SamplingParams(max_tokens=longest, stop_ids=tuple(range(0, 512, 4)))

    async def go() -> list[Episode]:
        plays = [env.play(TASK, {"solver": Seat("solver", policy, params, 0, ("t", n))}) for n in range(4)]
        return list(await asyncio.gather(*plays))

    b = Batch.of(asyncio.run(go()))
    return b.put(REWARD, torch.arange(4.0))


def gradient(policy: Policy, method: Any, b: Batch) -> torch.Tensor:
    async def go(b: Batch) -> Batch:
        for stage in (*method.on_group, *method.on_batch):
            b = await stage(b)
        return b

    learner: Any = policy.learner
    learner.optimizer.step = lambda *a, **k: None
    learner.update(asyncio.run(go(b)), method.terms)
    return torch.cat([p.grad.flatten() for p in learner.module.parameters() if p.grad is not None])


def test_one_chunk_is_ordinary_grpo(exact_model: str) -> None:
    """(a) C ≥ trace: the same rows, and the same gradient to 1e-12."""
    policy = opened(exact_model)
    chunked, plain = played(policy, Chunked(24, 8, 2, 4), 99), played(policy, SingleTurn(), 24)
    for column in plain.columns:
        if column.name != "info":
            mine, theirs = chunked[column], plain[column]
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, column.name
    assert torch.equal(chunked.structure.ids, plain.structure.ids)
    mine = gradient(policy, markovian_thinker_delethink(policy, minibatches=1), chunked)
    theirs = gradient(policy, grpo(policy, beta=0.0), plain)
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-6 and float(theirs.norm()) > 0  # behaviour is float32


def test_splitting_a_trace_leaves_the_loss(exact_model: str) -> None:
    """(b) the same contexts, cut into chunks: 2 + 3 + 1 tokens of one trace, beside a trace of 3."""
    policy = opened(exact_model)
    trace = (20, 21, 22, 23, 24, 25)

    def episodes(cuts: list[int]) -> list[Episode]:
        record, turns = Recorder(TASK), list[int]()
        for a, e in zip([0, *cuts], [*cuts, len(trace)]):
            turns.append(record.add((1, 2, 3, *trace[:a])))
            turns.append(record.sampled(Completion(trace[a:e], (-3.0,) * (e - a)), turns[-1]))
        record.judge(turns, reward=1.0)
        other = Recorder(TASK)
        other.judge([other.add((1, 2, 3)), other.sampled(Completion((30, 31, 32), (-3.0,) * 3), 0)], reward=0.0)
        return [record.episode(), other.episode()]

    m = markovian_thinker_delethink(policy, minibatches=1)
    whole = gradient(policy, m, Batch.of(episodes([])))
    for cuts in ([3], [2, 5]):
        parts = gradient(policy, m, Batch.of(episodes(cuts)))
        assert float((parts - whole).norm() / whole.norm()) < 1e-12
    b = Batch.of(episodes([2, 5]))
    w = seq_mean_token_mean(b, torch.ones(b.size(TOKEN)))
    assert w.tolist() == pytest.approx([1 / 12] * 6 + [1 / 6] * 3)  # 1/(2 traces · length), not 1/(4 rows · length)


# rewards and loss -----------------------------------------------------------------------------------------------------


def test_optional_rewards() -> None:
    texts = [[("abcdefgh", "length"), ("ij", "stop")], [("ab", "stop")], [("abcdefgh", "length"), ("ijkl", "length")]]
    b = Batch.of([play(Chunked(8, 4, 1, 2), t)[0] for t in texts]).put(REWARD, torch.tensor([1.0, 0.5, 1.0]))

    def shaped(**options: Any) -> list[float]:
        found: list[float] = asyncio.run(TraceReward(**options)(b))[SHAPED].tolist()
        return found

    assert shaped() == [1.0, 0.5, 1.0]
    assert shaped(bonus=0.02) == pytest.approx([1.04, 0.52, 1.04])
    assert shaped(ternary=True) == [1.0, -1.0, 0.0]
    b = b.put(REWARD, torch.tensor([float("nan"), 0.0, 0.0]))
    assert shaped(ternary=True) == pytest.approx([float("nan"), -1.0, 0.0], nan_ok=True)


def test_the_papers_settings_and_the_weight_against_the_sampler() -> None:
    m = markovian_thinker_delethink(None)
    assert m.env == Chunked(8192, 4096, 100, 5) and m.minibatches == 2
    (term,) = m.terms
    assert (term.loss.loss.low, term.loss.loss.high) == (0.2, 0.26) and term.per is seq_mean_token_mean  # type: ignore[union-attr]
    assert isinstance(m.on_group[1], Advantage) and m.on_group[1].reward == SHAPED
    b = Batch.of([play(Chunked(8, 4, 1, 2), [("abc", "stop")])[0]])
    b = b.put(LOGP.of("old"), b[BEHAVIOUR] + torch.tensor([0.0, 0.5, 3.0, -1.0]))
    b = asyncio.run(m.on_batch[1](b)).put(ADVANTAGE, torch.ones(4)).put(LOGP, b[LOGP.of("old")])
    loss, _ = term.loss(b)  # type: ignore[misc, operator]
    plain, _ = Clip(0.2, 0.26, old=LOGP.of("old"))(b)
    want = [1.0, math.exp(0.5), 2.0, math.exp(-1.0)]  # π_old/π_sampler, at most 2
    assert (loss / plain).tolist() == pytest.approx(want)
    assert isinstance(term, Term) and b.size(TRAJECTORY) == 1
