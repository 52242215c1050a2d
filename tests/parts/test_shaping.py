import pytest
import torch

from temper.carrier import Batch
from temper.columns import REWARD
from temper.errors import UserError
from temper.parts.shaping import SHAPED, Clamp, MissingEnd, Overlong
from temper.parts.signals import RewardVaries
from tests.parts.toys import batch, close, nan, recorder, run, said


def test_overlong_by_hand():
    # limit 10, buffer 4: free up to 6 tokens, −¼ a token beyond; longer than the limit goes on falling
    b = batch([[0, 6, 7, 10, 12, 8]], [[1.0, 1.0, 1.0, 1.0, 0.0, nan]])
    assert close(run(Overlong(10, 4), b)[SHAPED], [1, 1, 0.75, 0, -1.5, nan])
    assert close(run(Overlong(10, 4, factor=2.0), b)[SHAPED], [1, 1, 0.5, -1, -3, nan])


@pytest.mark.parametrize("buffer", [0, 11])
def test_an_impossible_buffer_is_refused(buffer):
    with pytest.raises(UserError, match="buffer must be within 1 and 10"):
        Overlong(10, buffer)


def test_shaping_leaves_the_judges_reward_alone_and_chains():
    b = run(Clamp(-0.5, 0.5, reward=SHAPED), run(Overlong(10, 4), batch([[10, 12]], [[1.0, 0.0]])))
    assert close(b[SHAPED], [0, -0.5]) and close(b[REWARD], [1, 0])


def test_missing_end_costs():
    r = recorder()
    one, two = (r.sampled(said(2, finish=f), r.add((0,))) for f in ("stop", "length"))
    r.judge((0, one), reward=1.0)
    r.judge((0, two), reward=1.0)
    assert close(run(MissingEnd(0.7), Batch.of([r.episode()]))[SHAPED], [1, 0.3])


@pytest.mark.parametrize(
    "rewards, kept",
    [
        ([1, 0], True),
        ([1, 1], False),
        ([0, 0], False),
        ([1], True),
        ([nan], False),
        ([1, nan], False),
        ([nan] * 2, False),
    ],
)
def test_dynamic_sampling_keeps_what_carries_signal(rewards, kept):
    assert RewardVaries()(batch([[1] * len(rewards)], [rewards])) is kept


def test_one_group_with_signal_is_enough():
    assert RewardVaries()(batch([[1, 1], [1, 1]], [[1, 1], [1, 0]]))


def test_dynamic_sampling_can_look_at_another_reward():
    b = batch([[1, 1]], [[1, 1]]).put(SHAPED, torch.tensor([1.0, 0.5]))
    assert not RewardVaries()(b) and RewardVaries(SHAPED)(b)
