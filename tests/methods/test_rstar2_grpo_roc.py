"""Resample-on-Correct: how many of each, which, and what untidiness costs."""

from __future__ import annotations

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD
from temper.methods.environments.rstar2_grpo_roc import rstar2_grpo_roc
from temper.parts.selection import KEPT, ResampleOnCorrect, error_share, penalties, untidy
from tests.parts.toys import of_request, recorder, run, said

TAGS = ("<answer>", "</answer>")


def group(rewards: list[float], errors: list[float], request: str = "0") -> list:
    """Attempts with these rewards, of whose ten calls such a share failed; each with one answer in tags."""
    episodes = []
    for reward, share in zip(rewards, errors):
        r = recorder(request)
        calls = [{"outcome": "tool error" if n < round(10 * share) else "ok"} for n in range(10)]
        turn = r.sampled(said(2, text="<answer>1</answer>"), r.add((0, 1)))
        r.judge((0, turn), reward=reward, info={"calls": calls})
        episodes.append(of_request(r, request))
    return episodes


@pytest.mark.parametrize(
    "bad, good, kept",
    [(12, 20, (6, 10)), (1, 31, (1, 15)), (31, 1, (15, 1)), (3, 29, (2, 14)), (29, 3, (14, 2)), (16, 16, (8, 8)),
     (13, 19, (6, 10)), (11, 21, (6, 10)), (2, 30, (2, 14)), (30, 2, (14, 2))],
)  # fmt: skip
def test_how_many_of_each(bad: int, good: int, kept: tuple[int, int]) -> None:
    assert ResampleOnCorrect(keep=16).shares(bad, good) == kept


def test_odd_numbers_too_add_up_to_what_is_kept() -> None:
    for keep in (3, 4, 7, 16):
        for bad in range(1, 32):
            few, many = ResampleOnCorrect(keep=keep).shares(bad, 32 - bad)
            assert few + many == keep and 0 <= few <= bad and 0 <= many <= 32 - bad


def test_successes_of_least_penalty_are_kept_and_failures_as_they_come() -> None:
    rewards = [1.0, 0.0] * 12 + [1.0] * 8  # 20 right, 12 wrong
    errors = [(n * 7 % 32) / 40 for n in range(32)]
    b = run(ResampleOnCorrect(keep=16), Batch.of(group(rewards, errors)))
    kept = (~b[KEPT].isnan()).nonzero().flatten().tolist()
    right = [j for j in kept if rewards[j] > 0]
    penalty = penalties(b, TAGS)
    assert len(right) == 10 and [j for j in kept if rewards[j] == 0] == [1, 3, 5, 7, 9, 11]
    assert max(penalty[j] for j in right) <= min(penalty[j] for j in range(32) if rewards[j] > 0 and j not in right)
    assert torch.equal(b[REWARD], torch.tensor(rewards))  # what the judge said stays


def test_failures_are_kept_whatever_their_penalty() -> None:
    rewards, worst_first = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5, 0.1, 0.0]
    b = run(ResampleOnCorrect(keep=4), Batch.of(group(rewards, worst_first)))
    assert b[KEPT].isnan().tolist() == [False, False, False, False, True, True]


def test_equal_rewards_and_groups_that_are_too_small_are_left_out() -> None:
    b = Batch.of(
        [*group([1.0] * 4, [0.0] * 4), *group([1.0, 0.0], [0.0, 0.0], "1"), *group([1, 0, 0, 1], [0.1] * 4, "2")]
    )
    b = run(ResampleOnCorrect(keep=4), b)
    assert b[KEPT].isnan().tolist() == [True] * 6 + [False] * 4


def test_advantages_are_those_of_the_kept() -> None:
    method = rstar2_grpo_roc(None, keep=4)
    b = Batch.of(group([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0.5, 0.0, 0.1, 0, 0, 0.9, 0.8, 0]))
    for stage in method.on_group:
        b = run(stage, b)
    a = b[ADVANTAGE][::2]  # 5 right, 3 wrong of 8 → 2 wrong (1.5 rounds to even), 2 right: ±½ / σ, σ = 1/√3
    half = 3**0.5 / 2
    right = [float("nan"), half, half]
    assert a.tolist() == pytest.approx([*right, -half, -half, *[float("nan")] * 3], abs=1e-4, nan_ok=True)
    assert method.signal is not None and method.signal(b)


def test_penalty_by_hand() -> None:
    calls = [{"outcome": o} for o in ("ok", "refused", "timeout", "ok")]
    assert error_share({"calls": calls}) == 0.5 and error_share({"calls": calls[:1]}) == 0.0
    assert error_share({"calls": []}) == 0.5 == error_share({})  # no tool was used
    assert error_share({"calls": [{"outcome": "ok", "text": "an error of 3 %"}]}) == 0.0  # not by the word
    one = "<answer>1</answer>"
    assert untidy(one, 2, TAGS) == 0.0 and untidy(one * 2, 4, TAGS) == 0.25 and untidy(one * 9, 2, TAGS) == 1.0
    assert untidy("1", 2, TAGS) == untidy("<answer>1", 1, TAGS) == untidy(one, 0, TAGS) == 1.0
    assert untidy(one + "<answer>", 3, TAGS) == 1.0
