"""Tsallis: coefficients by hand, PAFT's expectation, the speed of escape, and the gold answer behind the thinking."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper import streams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY, TURN_TEXT
from temper.episode import Completion, Recorder
from temper.methods.objectives.tsallis_garl_paft import TsallisCredit, tsallis_garl_paft
from temper.models.tiny import tiny_tokenizer
from temper.parts.gates import DEMONSTRATION
from temper.parts.logprobs import OLD
from temper.tasks.task import Task
from tests.parts.test_demonstrations import Live

W = torch.tensor([0.5, 0.25, 0.0625], dtype=torch.float64)


@pytest.mark.parametrize("q", [0.0, 0.25, 0.75, 1.0])
def test_garl_by_hand(q: float) -> None:
    think, answer = TsallisCredit(q).coefficients(W.log())
    mean, scale = float(W.mean()), 3.0**-q
    others = (W.sum() - W) / 2
    assert answer.tolist() == pytest.approx([scale * float(w) / mean**q for w in W])
    assert think.tolist() == pytest.approx([float(a) - scale * float(o) ** (1 - q) for a, o in zip(answer, others)])


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_over_its_draw_paft_is_garl_without_the_baseline(q: float) -> None:
    """E[count_m] = M w_m/Σw, so that the expectation is exact; the mean over many draws agrees with it."""
    path = TsallisCredit(q).coefficients(W.log())[1]
    expected = 3.0**-q * float(W.mean()) ** (1 - q) * 3 * W / W.sum()
    assert torch.allclose(expected, path, atol=1e-15)
    paft = TsallisCredit(q, "paft")
    drawn = torch.stack([paft.coefficients(W.log(), streams.key(0, n))[0] for n in range(3000)]).mean(0)
    assert torch.allclose(drawn, expected, rtol=0.1)
    one, two = paft.coefficients(W.log(), 7)
    assert torch.equal(one, two) and torch.equal(one, paft.coefficients(W.log(), 7)[0])


def test_tiny_probabilities_do_not_overflow_and_none_at_all_is_no_credit() -> None:
    logw = torch.tensor([-800.0, -810.0], dtype=torch.float64)
    think, answer = TsallisCredit(1.0).coefficients(logw)
    assert answer.tolist() == pytest.approx(
        [0.5 * 2 / (1 + math.exp(-10)), 0.5 * 2 * math.exp(-10) / (1 + math.exp(-10))]
    )
    assert bool(torch.isfinite(think).all())
    gone = torch.full((2,), -math.inf, dtype=torch.float64)
    assert [x.tolist() for x in TsallisCredit().coefficients(gone)] == [[0.0, 0.0]] * 2
    assert TsallisCredit(0.5).coefficients(torch.tensor([-1.0], dtype=torch.float64))[0].item() == pytest.approx(
        math.exp(-0.5)
    )


@pytest.mark.parametrize(("q", "power"), [(0.0, 1.0), (1.0, 0.0)])
def test_escape_from_a_small_probability(q: float, power: float) -> None:
    """A sigmoid with p_0: steps ∝ 1/p_0 at q = 0, and ∝ log 1/p_0 at q = 1."""

    def steps(p0: float) -> int:
        theta = torch.tensor(math.log(p0 / (1 - p0)), dtype=torch.float64)
        for n in range(10**6):
            p = float(torch.sigmoid(theta))
            if p > 0.5:
                return n
            (path,) = TsallisCredit(q).coefficients(torch.tensor([math.log(p)], dtype=torch.float64))[1]
            theta = theta + 0.5 * path * (1 - p)  # −∇ℓ_q = P^{1−q} ∇log P
        raise AssertionError("no escape")

    few, many = steps(1e-2), steps(1e-3)
    assert many / few == pytest.approx(10.0 if power else math.log(1e3) / math.log(1e2), rel=0.25)


def attempts(texts: list[str]) -> Batch:
    tokenizer, made = tiny_tokenizer(), []
    for text in texts:
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        record = Recorder(Task("t", "2+2=?", "4"))
        prompt = record.add((1, 2, 3))
        said = record.sampled(Completion(ids, (-1.0,) * len(ids), text=text), prompt)
        record.judge([prompt, said], reward=1.0)
        made.append(record.episode())
    return Batch.of(made)


def test_thinking_stays_and_the_gold_answer_is_put_behind_it() -> None:
    made = tsallis_garl_paft(Live())
    b = attempts(["<think>2+2=4</think>5<|im_end|>", "<think>hm"])
    for stage in made.on_group:
        b = asyncio.run(stage(b))
    said = [[b[TURN_TEXT][u] for u in b.turns_of(j)][1:] for j in range(2)]
    assert said == [["<think>2+2=4", "</think>", "4"], ["<think>hm", "</think>", "4"]]
    assert Live().tokenizer.decode(b.turn_ids(b.turns_of(0)[-1])) == "4<|im_end|>"
    thought = len(b.turn_ids(b.turns_of(0)[1]))
    assert b[DEMONSTRATION][: thought + 2].tolist() == [False] * thought + [True] * 2
    assert b[REWARD].tolist() == [1.0, 1.0]  # of the attempts as they were: only reported


def test_credit_reaches_the_right_tokens() -> None:
    made = tsallis_garl_paft(Live(), q=0.5)
    b = attempts(["<think>a</think>5", "<think>b</think>5"])
    for stage in made.on_group:
        b = asyncio.run(stage(b))
    old = torch.where(
        b[DEMONSTRATION], torch.where(b.spread(torch.tensor([0.0, 1.0]), TRAJECTORY, TOKEN) > 0, -2.0, -0.5), -9.0
    )
    out = asyncio.run(TsallisCredit(0.5)(b.put(OLD, old)))[ADVANTAGE]
    logw = torch.tensor([-1.0, -4.0], dtype=torch.float64)
    think, answer = TsallisCredit(0.5).coefficients(logw)
    shown = b[DEMONSTRATION]
    first = b.spread(torch.tensor([1.0, 0.0]), TRAJECTORY, TOKEN) > 0
    for mask, value in ((~shown & first, think[0]), (shown & first, answer[0]), (~shown & ~first, think[1])):
        assert out[mask].tolist() == pytest.approx([float(value)] * int(mask.sum()), rel=1e-5)
