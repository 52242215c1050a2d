import torch

from temper.carrier import Batch
from temper.parts.walks import Walk
from tests.parts.toys import batch, close, recorder, said, tree


def reset():
    """One trajectory over two chains: three tokens, then two in a fresh context."""
    r = recorder()
    one = r.sampled(said(3), r.add((0,)))
    two = r.sampled(said(2), r.add((1,)))
    r.judge((0, one, 2, two), reward=1.0)
    return Batch.of([r.episode()])


def test_a_walk_follows_the_turns_across_a_context_reset():
    walk = Walk.of(reset())
    assert walk.token.tolist() == [0, 1, 2, 3, 4]
    assert walk.place.tolist() == [0, 1, 2, 3, 4] and walk.left.tolist() == [4, 3, 2, 1, 0]


def test_a_shared_token_has_a_row_for_each_trajectory():
    walk = Walk.of(tree())
    assert walk.token.tolist() == [0, 1, 2, 0, 1, 3, 4, 5]
    assert walk.trajectory.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_discounting_by_hand_over_ragged_rows():
    walk = Walk.of(batch([[3, 1]]))
    assert close(walk.discounted(torch.tensor([1.0, 2, 4, 8]), 0.5), [3, 4, 4, 8])
    assert close(walk.following(torch.tensor([1.0, 2, 4, 8])), [2, 4, 0, 0])


def test_a_walk_survives_select_and_concat():
    b = Batch.concat([tree(), batch([[2, 0, 1]])])
    walk = Walk.of(b)
    assert walk.token.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 6, 7, 8]
    right = b.select(torch.tensor([False, True, False, False, True]))
    assert Walk.of(right).token.tolist() == [0, 1, 2, 3, 4, 5]
    assert Walk.of(right).trajectory.tolist() == [0, 0, 0, 0, 0, 1]


def test_sharing_rows_are_averaged_without_nan():
    walk = Walk.of(tree())
    x = torch.tensor([1.0, 1, 5, 3, float("nan"), 7, 8, 9])
    assert close(walk.per_token(x), [2, 1, 5, 7, 8, 9])


def test_an_empty_batch_walks_nowhere():
    walk = Walk.of(batch([[0]]))
    assert len(walk.token) == 0 and len(walk.discounted(torch.zeros(0), 1.0)) == 0
