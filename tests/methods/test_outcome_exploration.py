"""Outcome-based exploration: each form by hand, and counts that survive a resumed run."""

from __future__ import annotations

import asyncio

import pytest

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY
from temper.episode import Completion, Recorder
from temper.methods.objectives.outcome_exploration import AnswerBonus, canonical, outcome_exploration
from temper.parts.advantages import Advantage
from temper.parts.shaping import SHAPED
from temper.tasks.task import Task


def answered(texts: list[str], rewards: list[float] | None = None, task: str = "t") -> Batch:
    made = []
    for n, text in enumerate(texts):
        record = Recorder(Task(task, "?"))
        prompt = record.add((1, 2))
        record.judge([prompt, record.sampled(Completion((3,), (-1.0,), text=text), prompt)],
                     reward=rewards[n] if rewards else 0.0)  # fmt: skip
        made.append(record.episode())
    return asyncio.run(Advantage()(Batch.of(made)))


def gained(stage: AnswerBonus, b: Batch) -> list[float]:
    out = asyncio.run(stage(b))
    if stage.form == "naive":
        return (out[SHAPED] - b[REWARD]).tolist()
    return b.mean(out[ADVANTAGE] - b[ADVANTAGE], TOKEN, TRAJECTORY).tolist()


def test_answers_are_counted_as_they_are_judged() -> None:
    assert canonical("<think>1+1=2</think> 2. ") == canonical("2") == canonical("\\boxed{2}") == "2"
    assert canonical("<think>nothing more</think>") == canonical("") == ""


def test_con_turns_negative_for_what_is_said_often() -> None:
    stage = AnswerBonus("con", coef=1.0)
    b = answered(["2", "2", "3", ""])
    assert gained(stage, b) == pytest.approx([0.5] * 4)  # all new: counted after the bonus
    assert gained(stage, b) == pytest.approx([2**-0.5 - 0.5, 2**-0.5 - 0.5, 0.5, 0.5])
    for _ in range(6):
        gained(stage, b)
    assert gained(stage, b)[0] == pytest.approx(16**-0.5 - 0.5)
    assert gained(stage, answered(["2"], task="another")) == pytest.approx([0.5])


def test_mean_takes_the_others_bonus_off() -> None:
    stage = AnswerBonus("mean", coef=1.0)
    b = answered(["2", "2", "3"])
    assert gained(stage, b) == pytest.approx([0.0] * 3)
    rare = 1.0
    often = 2**-0.5
    expected = [often - (often + rare) / 2, often - (often + rare) / 2, rare - often]
    assert gained(stage, b) == pytest.approx(expected)
    assert gained(stage, answered(["9"])) == [0.0]  # nobody else to compare with


def test_batch_counts_repetition_in_the_group_only() -> None:
    stage = AnswerBonus("batch", coef=2.0)
    for _ in range(2):  # no history
        assert gained(stage, answered(["2", "2", "3", "4"])) == pytest.approx([-1.0, -1.0, -0.5, -0.5])
    assert stage.counts == {}


def test_a_bonus_in_the_reward_cancels_where_all_agree_and_after_the_baseline_it_does_not() -> None:
    b = answered(["2", "2", "2"])
    naive = asyncio.run(AnswerBonus("naive", coef=1.0)(b))
    assert naive[SHAPED].tolist() == [1.0] * 3
    assert asyncio.run(Advantage(reward=SHAPED)(naive))[ADVANTAGE].tolist() == [0.0] * 3
    assert gained(AnswerBonus("con", coef=1.0), b) == [0.5] * 3


def test_right_answers_may_be_left_alone() -> None:
    assert gained(AnswerBonus("con", coef=1.0, correct=False), answered(["2", "3"], [1.0, 0.0])) == [0.0, 0.5]


def test_counts_go_on_in_a_resumed_run() -> None:
    one, two = AnswerBonus(), AnswerBonus()
    gained(one, answered(["2", "3", "2"]))
    two.load_state_dict(one.state_dict())
    assert two.counts == {"t": {"2": 2, "3": 1}}
    assert gained(one, answered(["2", "5"])) == gained(two, answered(["2", "5"]))


def test_order_of_stages() -> None:
    assert [type(s).__name__ for s in outcome_exploration(None).on_group] == ["Advantage", "AnswerBonus"]
    assert [type(s).__name__ for s in outcome_exploration(None, form="naive").on_group] == ["AnswerBonus", "Advantage"]
