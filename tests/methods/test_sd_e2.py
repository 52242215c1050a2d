"""SD-E²: copies add nothing, orthogonal strategies have all of it, and scores that no scale changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY
from temper.episode import Completion, Recorder
from temper.errors import UserError
from temper.methods.objectives.sd_e2 import sd_e2
from temper.parts.shaping import SHAPED
from temper.parts.strategies import (
    DIVERSITY,
    EFFICIENCY,
    FORM,
    BatchScores,
    StrategyRewards,
    diversity,
    efficiency,
    ends_in_answer,
    representatives,
    segments,
    z_scores,
)
from temper.policy import Policy
from temper.tasks.task import Task

TASK = Task("t", "2+2=?", "4")


def answers(rows: list[tuple[str, float | None]]) -> Batch:
    made = []
    for text, r in rows:
        record = Recorder(TASK)
        prompt = record.add((1, 2))
        record.judge([prompt, record.sampled(Completion((3,), (-1.0,), text=text), prompt)], reward=r)
        made.append(record.episode())
    return Batch.of(made)


def axes(*which: int) -> Tensor:
    return torch.eye(8)[list(which)]


def letters(texts: Sequence[str]) -> Tensor:
    """An embedder: the axis of a text's first letter."""
    return torch.eye(26)[[ord(t[0]) - ord("a") for t in texts]] if texts else torch.zeros(0, 26)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think><strategy>a b</strategy> so <attempt>c\nd</attempt></think>4", ["a b", "c\nd"]),
        ("<think>6-0=6\n\n 6-2=4 </think>4", ["6-0=6", "6-2=4"]),
        ("4", []), ("<think></think>4", []), ("<strategy> </strategy>4", []), ("<strategy>a</attempt>", []),
    ],
)  # fmt: skip
def test_segments(text: str, found: list[str]) -> None:
    assert segments(text) == found


@pytest.mark.parametrize(
    ("attempt", "right"),
    [("2+2=4", True), ("so 4.", True), ("\\boxed{4} is it", True), ("2+2=5", False), ("14", False), ("", False)],
)
def test_which_attempt_is_right(attempt: str, right: bool) -> None:
    assert ends_in_answer(attempt, TASK) is right and ends_in_answer(attempt, Task("t", "?")) is False


def test_diversity_by_hand() -> None:
    assert diversity(axes(), most=4) == 0.0 and diversity(axes(0), most=4) == pytest.approx(0.125)
    assert diversity(axes(0, 1, 2, 3), most=4) == pytest.approx(1.0)  # n orthogonal strategies: everything
    assert diversity(axes(0, 1), most=4) == pytest.approx(0.5 * 0.5 + 0.5)
    near = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert diversity(near, tau=0.8, most=2) == pytest.approx(0.5 + 0.5 * 0.4)
    assert diversity(near, tau=0.6, most=2) == pytest.approx(0.25)  # the same from τ on
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert diversity(opposite, most=2) == pytest.approx(1.0)  # never above 1


def test_more_tokens_without_a_new_cluster_change_nothing() -> None:
    assert diversity(axes(0, 1, 0, 1, 1, 0), most=4) == diversity(axes(0, 1), most=4)
    assert diversity(axes(0, 1, 2, 3, 4, 5), most=4) == diversity(axes(0, 1, 2, 3), most=4)
    assert representatives(axes(2, 2, 0, 2, 0), 0.8) == [0, 2]


def test_a_cosine_at_the_threshold_does_not_depend_on_rounding() -> None:
    tilted = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    for noise in (-1e-8, 0.0, 1e-8):
        assert representatives(tilted.double() + torch.tensor([[0.0, 0.0], [noise, 0.0]]), 0.8) == [0]


def test_efficiency_ends_with_the_first_right_one() -> None:
    yes, no = True, False
    assert [efficiency(r, 1, 4) for r in ([yes], [no, yes], [yes, no], [yes, yes, yes])] == [1.0, 1.0, 0.75, 0.5]
    assert efficiency([yes] + [no] * 9, 1, 4) == 0.0
    assert [efficiency([no] * n, n, 4) for n in (0, 1, 2, 4, 9)] == [0.0, 0.125, 0.25, 0.5, 0.5]
    assert efficiency([no] * 3, 1, 4) == 0.125  # copies are no exploration


def test_rewards_by_hand() -> None:
    b = answers([
        ("<think>a=4\nb=4</think>4", 1.0), ("<think>a=5\nb=5</think>5", 0.0), ("<think>a=4\na=4</think>4", 1.0),
        ("4", 1.0), ("<think>a=4</think>", None),
    ])  # fmt: skip
    stage = StrategyRewards(letters, most=2)
    out = asyncio.run(stage(b))
    assert out[DIVERSITY][:4].tolist() == pytest.approx([1.0, 0.0, 0.25, 0.0])  # wrong: gated
    assert out[FORM][:4].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert out[EFFICIENCY][:4].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0])
    assert all(bool(out[c][4].isnan()) for c in (DIVERSITY, FORM, EFFICIENCY))
    assert stage.metrics == {"strategies/tried": 7 / 5, "strategies/distinct": 6 / 5}
    free = asyncio.run(StrategyRewards(letters, most=2, gated=False)(b))
    assert free[DIVERSITY][:4].tolist() == pytest.approx([1.0, 1.0, 0.25, 0.0])


def test_scores_are_invariant_and_constants_score_nothing() -> None:
    x = torch.tensor([1.0, 0.0, 2.0, math.nan, 1.0])
    assert torch.allclose(z_scores(x), z_scores(1000 * x - 7), equal_nan=True, atol=1e-5)
    assert z_scores(torch.tensor([0.1, 0.1, 0.1])).tolist() == [0.0] * 3
    assert z_scores(torch.tensor([5.0])).tolist() == [0.0]
    still = z_scores(torch.tensor([2.0, math.nan]))
    assert still[0] == 0 and bool(still[1].isnan())  # unjudged stays unjudged, and enters no mean
    b = answers([("", 1.0), ("", 0.0), ("", 1.0)]).put(FORM, torch.tensor([3.0, 3.0, 3.0]))
    b = b.put(DIVERSITY, torch.tensor([0.2, 0.1, 0.0]))
    out = asyncio.run(BatchScores({REWARD: 1.0, FORM: 5.0, DIVERSITY: 0.5})(b))[SHAPED]
    r = 1 / 3**0.5
    assert out.tolist() == pytest.approx([r + 0.5, -2 * r, r - 0.5], abs=1e-5)


def test_the_whole_by_hand() -> None:
    b = answers([("<think>a=4\nb=4</think>4", 1.0), ("5", 0.0), ("<think>a=4</think>4", None)])
    made = sd_e2(None, embedder=letters, form=0.0, efficiency=0.0)
    for stage in made.on_batch:
        b = asyncio.run(stage(b))
    z = 2**-0.5  # of two values, whatever they are
    assert b[SHAPED][:2].tolist() == pytest.approx([2 * z, -2 * z])
    sigma = 2 * z * 2**0.5
    a = b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY)
    assert a[:2].tolist() == pytest.approx([2 * z / sigma, -2 * z / sigma], abs=1e-4) and bool(a[2].isnan())


def test_refusals_and_parts() -> None:
    with pytest.raises(UserError, match="most strategies"):
        StrategyRewards(most=0)
    with pytest.raises(UserError, match="share of the spread"):
        StrategyRewards(spread=2.0)
    reference = Policy(name="reference", trainable=False)
    made = sd_e2(None, reference=reference)
    assert [t.name for t in made.terms] == ["policy", "kl"] and made.policies == {"reference": reference}
