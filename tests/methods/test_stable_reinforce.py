"""StableReinforce: finite losses whatever the ratio, outliers without weight, and its reward by hand."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TOKEN
from temper.episode import Completion, Episode, Recorder
from temper.methods.objectives.stable_reinforce import (
    Consistency,
    FilterOutliers,
    PreClip,
    stable_reinforce,
    thought_agrees,
    well_formed,
)
from temper.objective import Term
from temper.parts.advantages import Whiten
from temper.parts.losses import Surrogate
from temper.parts.shaping import SHAPED
from temper.tasks.task import Task
from tests.methods.groups import of


@pytest.mark.parametrize("a", [1.0, -1.0])
@pytest.mark.parametrize("ell", [200.0, -200.0])
def test_an_absurd_ratio_is_finite_and_has_no_gradient(ell: float, a: float) -> None:
    b = of([(1, 1.0)])
    logp = torch.tensor([ell - 1.0], dtype=torch.float64, requires_grad=True)
    value = Term("policy", PreClip()).values(b.put(LOGP, logp).put(ADVANTAGE, torch.tensor([a])))[0]
    value.sum().backward()
    bound = 1e3 if ell > 0 else 1e-3
    assert value.item() == pytest.approx(max(-a * bound, -a * min(max(bound, 0.8), 1.2)), rel=1e-6)
    assert float(logp.grad) == 0.0


def test_inside_the_bounds_it_is_ppo_and_on_policy_reinforce() -> None:
    b = of([(3, 1.0)]).put(ADVANTAGE, torch.full((3,), 2.0))
    logp = torch.tensor([-1.0, -0.9, -0.5], dtype=torch.float64, requires_grad=True)
    values = Term("policy", PreClip()).values(b.put(LOGP, logp))[0]
    values.sum().backward()
    assert (-values / 2).tolist() == pytest.approx([1.0, math.exp(0.1), 1.2])
    assert logp.grad.tolist() == pytest.approx([-2.0, -2 * math.exp(0.1), 0.0])


def test_an_outlier_is_zeroed_after_normalising_and_the_others_keep_their_statistics() -> None:
    a = torch.cat([torch.tensor([50.0]), torch.linspace(-1, 1, 19), torch.tensor([math.nan])])
    b = of([(21, 1.0)]).put(ADVANTAGE, a)
    whitened = asyncio.run(Whiten()(b))[ADVANTAGE]
    out = asyncio.run(FilterOutliers()(b.put(ADVANTAGE, whitened)))[ADVANTAGE]
    assert float(whitened[0]) > 3 and float(out[0]) == 0.0
    assert torch.equal(out[1:20], whitened[1:20]) and bool(out[20].isnan())
    odd = b.put(ADVANTAGE, torch.full((21,), math.inf))
    assert asyncio.run(FilterOutliers()(odd))[ADVANTAGE].tolist() == [0.0] * 21


def test_without_the_filter_the_outlier_moves_the_parameters() -> None:
    b = of([(2, 1.0)]).put(ADVANTAGE, torch.tensor([50.0, 0.5]))
    for loss_of, moved in ((b, True), (asyncio.run(FilterOutliers()(b)), False)):
        logp = torch.tensor([-1.0, -1.0], requires_grad=True)
        Term("policy", Surrogate()).values(loss_of.put(LOGP, logp))[0].sum().backward()
        assert (abs(float(logp.grad[0])) > 0) is moved and float(logp.grad[1]) == -0.5


SAID = {
    "<think>2+2=4</think>4": (1, 1.0),
    "<think>2+2=5</think>4": (-1, 1.0),
    "<think></think>4": (0, 1.0),
    "4": (0, 0.0),
    "<think>2+2=4</think>": (-1, 0.0),
}


def test_does_the_reasoning_support_the_answer() -> None:
    assert {text: (thought_agrees(text), well_formed(text)) for text in SAID} == SAID


def test_reward_by_hand() -> None:
    """A consistent right answer 2.0, an inconsistent one 1.0; a wrong one gets nothing for agreeing with itself."""
    rows = [("<think>2+2=4</think>4", 1.0, 2.0), ("<think>2+2=5</think>4", 1.0, 1.0),
            ("<think>2+2=5</think>5", 0.0, 0.5), ("4", 1.0, 1.0), ("5", 0.0, 0.0), ("4", None, None)]  # fmt: skip
    made: list[Episode] = []
    for text, r, _ in rows:
        record = Recorder(Task("t", "2+2=?", "4"))
        prompt = record.add((1, 2))
        answer = record.sampled(Completion((3,), (-1.0,), text=text), prompt)
        record.judge([prompt, answer], reward=r)
        made.append(record.episode())
    out = asyncio.run(Consistency()(Batch.of(made)))[SHAPED]
    assert out[:5].tolist() == [r for _, _, r in rows[:5]] and bool(out[5].isnan())


def test_stages_in_order() -> None:
    made = stable_reinforce(None)
    assert [type(s).__name__ for s in made.on_batch] == ["ReturnToGo", "Whiten", "FilterOutliers"]
    assert made.on_batch[0].reads == (SHAPED,) and stable_reinforce(None, judge=None).on_batch[0].reads == (REWARD,)
    assert made.terms[0].level == TOKEN
