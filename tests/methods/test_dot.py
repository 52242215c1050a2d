"""DOT: what can be cut at all, what is, and in which order."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, FINISH, REWARD, TOKEN, TRAJECTORY, TURN_TEXT
from temper.methods.objectives.dot import CutOutliers, dot
from tests.methods.groups import of
from tests.parts.test_demonstrations import Live


class Ends:
    """Right: what was not cut."""

    reads, writes = (), (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        ended = [b[FINISH][b.turns_of(j)[-1]] == "stop" for j in range(b.size(TRAJECTORY))]
        return b.put(REWARD, torch.tensor([float(x) for x in ended]))


def cut(lengths: list[int], rewards: list[float] | None = None, **how: float) -> Batch:
    b = of([(n, 1.0 if rewards is None else rewards[i]) for i, n in enumerate(lengths)])
    return asyncio.run(CutOutliers(Live(), [Ends()], **how)(b))


@pytest.mark.parametrize(("g", "largest"), [(8, 2.475), (10, 2.846), (32, 5.480)])
def test_no_z_score_is_larger(g: int, largest: float) -> None:
    """With α just below the largest z-score an outlier of any size is beyond T, just above it never is."""
    assert largest == pytest.approx((g - 1) / math.sqrt(g), abs=1e-3)
    for longest in (100, 10_000):
        b = of([(1, 1.0)] * (g - 1) + [(longest, 1.0)])
        for alpha, beyond in ((largest - 0.05, True), (largest + 0.05, False)):
            limit = CutOutliers(Live(), alpha=alpha).limit(b, b.count(TOKEN, TRAJECTORY))
            assert limit is not None and (longest - limit > 0) is beyond


def test_eight_answers_are_too_few_and_thirty_two_are_not() -> None:
    b = cut([40] * 7 + [400], margin=4)
    assert b.count(TOKEN, TRAJECTORY).tolist() == [40] * 7 + [400]
    lengths = [40] * 31 + [400]
    limit = int(torch.tensor([float(n) for n in lengths]).mean() + 3 * torch.tensor([float(n) for n in lengths]).std())
    out = cut(lengths, margin=4)
    assert out.count(TOKEN, TRAJECTORY).tolist() == [40] * 31 + [limit] and limit == 242
    assert out[REWARD].tolist() == [1.0] * 31 + [0.0]  # judged again
    last = out.turns_of(31)[-1]
    assert out[FINISH][last] == "length" and out[TURN_TEXT][last] == Live().tokenizer.decode(out.turn_ids(last))
    assert len(out[BEHAVIOUR]) == 31 * 40 + limit


def test_groups_with_a_wrong_answer_are_left_alone() -> None:
    lengths = [40] * 31 + [400]
    for rewards in ([1.0] * 30 + [0.0, 1.0], [0.0] * 32):
        assert cut(lengths, rewards, margin=4).count(TOKEN, TRAJECTORY).tolist() == lengths


def test_the_margin_in_tokens_and_as_a_share() -> None:
    lengths = [40] * 31 + [400]
    assert cut(lengths, margin=158).count(TOKEN, TRAJECTORY)[-1] == 242
    assert cut(lengths, margin=159).count(TOKEN, TRAJECTORY)[-1] == 400
    assert cut(lengths, margin=0.39).count(TOKEN, TRAJECTORY)[-1] == 242
    assert cut(lengths, margin=0.4).count(TOKEN, TRAJECTORY)[-1] == 400


def test_cutting_comes_before_advantages_and_dynamic_sampling() -> None:
    made = dot(Live(), judges=[Ends()], margin=4)
    b = of([(n, 1.0) for n in [40] * 31 + [400]])
    assert made.signal is not None and not made.signal(b)  # without the cut the group would be thrown away
    for stage in made.on_group:
        b = asyncio.run(stage(b))
    assert made.signal(b)
    a = b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY)
    assert float(a[-1]) < 0 < float(a[0])
