"""Credit turn by turn, worked by hand."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, EPISODE, GROUP, GROUP_KEY, REWARD, TRAJECTORY, TURN_REWARD
from temper.episode import Completion, Episode, Recorder
from temper.parts.turns import TURN_RETURN, SumOfTurns, TurnReturns
from temper.tasks.task import Task

NAN = math.nan


def talk(*rewards: float | None, group: str = "") -> Episode:
    """One chain of turns of two tokens each, with these rewards."""
    record = Recorder(Task("t", "?"))
    turns = [record.add((1, 2))]
    for reward in rewards:
        turns.append(record.sampled(Completion((5, 6), (-0.5, -0.5)), turns[-1]))
        if reward is not None:
            record.score(turns[-1], reward)
        turns.append(record.add((3,), turns[-1]))
    record.judge(turns, group=group)
    return record.episode()


def run(stage: object, b: Batch) -> Batch:
    return asyncio.run(stage(b))  # type: ignore[operator]


def per_turn(b: Batch, column: object) -> list[float]:
    """Of the sampled turns, in order."""
    return b[column][b.structure.sampled].tolist()  # type: ignore[index]


def test_rewards_of_turns_become_a_column_and_their_sum_the_reward() -> None:
    b = Batch.of([talk(0.5, 1.0), talk(None, -1.0)])
    assert per_turn(b, TURN_REWARD) == pytest.approx([0.5, 1.0, NAN, -1.0], nan_ok=True)
    assert run(SumOfTurns(), b)[REWARD].tolist() == [1.5, -1.0]


def test_a_trajectory_whose_turns_have_no_reward_is_not_judged() -> None:
    b = run(SumOfTurns(), Batch.of([talk(1.0), talk(None, None)]))
    assert b[REWARD].tolist() == pytest.approx([1.0, NAN], nan_ok=True)
    a = run(TurnReturns(), b)[ADVANTAGE]
    assert a.tolist() == pytest.approx([0.0, 0.0, NAN, NAN, NAN, NAN], nan_ok=True)


def test_returns_are_discounted_and_compared_with_the_same_turn_of_the_group() -> None:
    b = run(TurnReturns(gamma=0.5), Batch.of([talk(0.0, 1.0, 4.0), talk(1.0, None)]))
    # first: R = 0 + 0.5 (1 + 0.5·4) = 1.5, 3, 4; second: 1, 0
    assert per_turn(b, TURN_RETURN) == [1.5, 3.0, 4.0, 1.0, 0.0]
    first, second = 0.25, 1.5  # half of the gap at turns 0 and 1; turn 2 was reached once
    assert b[ADVANTAGE].tolist() == [first] * 2 + [second] * 2 + [0.0] * 2 + [-first] * 2 + [-second] * 2


def test_without_a_baseline_the_return_is_the_advantage() -> None:
    b = run(TurnReturns(centred=False), Batch.of([talk(1.0, 2.0)]))
    assert b[ADVANTAGE].tolist() == [3.0, 3.0, 2.0, 2.0]


def test_only_what_a_role_wrote_can_be_scored() -> None:
    record = Recorder(Task("t", "?"))
    record.add((1,))
    with pytest.raises(ValueError, match="turn 0 is the environment's own"):
        record.score(0, 1.0)


def test_plays_and_groups_of_their_own() -> None:
    b = Batch.of([talk(1.0), talk(2.0, group="step 1"), talk(3.0)])
    assert b[EPISODE].tolist() == [0, 1, 2] and b[GROUP_KEY] == ["", "step 1"]
    assert b.structure.group.tolist() == [0, 1, 0] and b.size(GROUP) == 2
    kept = b.select(torch.tensor([False, True, True]))
    assert kept[EPISODE].tolist() == [1, 2] and kept[GROUP_KEY] == ["", "step 1"] and kept.size(TRAJECTORY) == 2
