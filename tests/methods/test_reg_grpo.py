"""Reg-GRPO: the loss's invariances, where it is undefined, the first gradient; hints and dropped words."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TASK, TOKEN, TRAJECTORY, TURN_TEXT
from temper.methods.objectives.reg_grpo import DEFINED, SCORE, Regressive, Targets, reg_grpo
from temper.objective import Term, row_mean
from temper.parts.advantages import Advantage
from temper.parts.difficulty import Augment
from temper.parts.losses import Surrogate
from temper.policy import Policy
from tests.methods.groups import of

TERM = Term("policy", Regressive(1e-6), per=row_mean, where=DEFINED)


def group(rewards: list[float | None], drift: list[float]) -> tuple[Batch, torch.Tensor]:
    b = asyncio.run(Targets()(of([(1, r) for r in rewards])))
    logp = (torch.tensor(drift, dtype=torch.float64) - 1).requires_grad_()
    return b.put(LOGP, logp), logp


def loss(rewards: list[float | None], drift: list[float]) -> float:
    return TERM.values(group(rewards, drift)[0])[0].item()


def test_zero_for_any_rising_affine_function_of_the_reward() -> None:
    r = [1.0, 0.0, 0.25, 0.5]
    for scale, shift in ((1.0, 0.0), (0.1, 3.0), (7.0, -2.0)):
        assert loss(r, [scale * x + shift for x in r]) == pytest.approx(0.0, abs=1e-8)
    assert loss(r, [-x for x in r]) == pytest.approx(4.0, abs=1e-4)
    mixed = [0.3, -0.1, 0.7, 0.2]
    assert loss(r, mixed) == pytest.approx(loss(r, [5 * x - 1 for x in mixed]), abs=1e-6)


@pytest.mark.parametrize("drift", [[0.1, 0.3], [0.3, 0.1]])
def test_two_answers_have_no_gradient_and_are_left_out(drift: list[float]) -> None:
    b, logp = group([1.0, 0.0], drift)
    assert b[DEFINED].tolist() == [False] and TERM.weights(b).tolist() == [0.0]
    value = Regressive(1e-9)(b)[0]
    value.sum().backward()
    assert value.item() in (pytest.approx(0.0, abs=1e-9), pytest.approx(4.0)) and logp.grad.abs().max() < 1e-6


def test_groups_that_agree_or_lack_answers_are_left_out() -> None:
    for rewards in ([1.0, 1.0, 1.0], [1.0, 0.0, None]):
        assert asyncio.run(Targets()(of([(1, r) for r in rewards])))[DEFINED].tolist() == [False]
    b = asyncio.run(Targets()(of([(1, r) for r in (1.0, 0.0, 0.5, None)])))
    assert b[DEFINED].tolist() == [True] and bool(b[SCORE][3].isnan())


def test_unjudged_answers_have_no_gradient() -> None:
    b, logp = group([1.0, 0.0, 0.5, None], [0.1, 0.2, 0.0, 9.0])
    TERM.values(b)[0].sum().backward()
    assert float(logp.grad[3]) == 0.0 and bool(torch.isfinite(logp.grad).all())


def test_the_first_gradient_has_grpos_direction_over_eps() -> None:
    r: list[float | None] = [1.0, 0.0, 0.25]
    b, logp = group(r, [0.0, 0.0, 0.0])
    for eps in (0.01, 0.1):
        mine = torch.autograd.grad(Regressive(eps)(b)[0].sum(), logp, retain_graph=True)[0]
        a = asyncio.run(Advantage()(b))
        grpo = torch.autograd.grad(Term("policy", Surrogate()).values(a)[0].mean(), logp, retain_graph=True)[0]
        assert float(torch.cosine_similarity(mine, grpo, dim=0)) == pytest.approx(1.0, abs=1e-6)
        z = (torch.tensor([1.0, 0.0, 0.25]) - 1.25 / 3) / torch.tensor([1.0, 0.0, 0.25]).std(correction=0)
        assert mine.tolist() == pytest.approx((-2 / 3 * z / eps).tolist(), rel=1e-4)


class Judge:
    reads, writes = (), (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(REWARD, torch.arange(b.size(TRAJECTORY)).float() / 10)


@pytest.fixture(scope="module")
def policy(exact_model: str) -> Policy:
    made = Policy(model=exact_model)
    made.open()
    return made


def augmented(policy: Policy, rewards: list[float], usual: float) -> tuple[Augment, Batch]:
    stage = Augment(policy, [Judge()], sampling=SamplingParams(max_tokens=5), recent=[usual])
    return stage, asyncio.run(stage(of([(2, r) for r in rewards])))


def text_of(policy: Policy, b: Batch) -> str:
    return str(policy.tokenizer.decode(b.turn_ids(b.turns_of(0)[0])))


def test_hard_tasks_get_a_hint_that_grows(policy: Policy) -> None:
    stage, out = augmented(policy, [0.0, 0.0, 0.0], 0.9)
    assert "say a\nHint: " in text_of(policy, out) and "The answer is" not in text_of(policy, out)
    assert out.size(TRAJECTORY) == 3 and out[REWARD].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert stage.metrics["difficulty/gap"] == pytest.approx(0.9) and stage.recent == [0.9, 0.0]
    again = augmented(policy, [0.0, 0.0, 0.0], 0.9)[1]
    assert [again[TURN_TEXT][u] for u in range(again.size(1))] == [out[TURN_TEXT][u] for u in range(out.size(1))]


def test_easy_tasks_lose_words_and_usual_ones_stay(policy: Policy) -> None:
    out = augmented(policy, [1.0, 1.0, 1.0], 0.0)[1]
    assert "Hint" not in text_of(policy, out) and out[TASK][0].answer == "a"
    b = of([(2, 0.5), (2, 0.5)])
    stage = Augment(policy, [Judge()], recent=[0.52])
    assert asyncio.run(stage(b)) is b
    assert asyncio.run(Augment(policy, [Judge()])(b)) is b  # nothing to compare with yet


def test_state_and_parts() -> None:
    one, two = Augment(None, recent=[0.1, 0.2]), Augment(None)
    two.load_state_dict(one.state_dict())
    assert two.recent == [0.1, 0.2]
    assert [type(s).__name__ for s in reg_grpo(None, augment=True).on_group] == ["Augment", "Targets"]
    assert not math.isnan(reg_grpo(None).terms[0].coefficient(0)) and ADVANTAGE not in Targets.writes
    assert TERM.level > TOKEN
