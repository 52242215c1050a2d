import asyncio

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN, Column, boolean
from temper.parts.gates import (
    COV_KEPT,
    DEMONSTRATION,
    HIGH_ENTROPY,
    NOT_GREEDY,
    NOT_TRUNCATED,
    REWARDED,
    AllOf,
    ClipCovSelect,
    KLCovSelect,
    MarkDemonstrations,
    NotGreedy,
    NotTruncated,
    Rewarded,
    TopEntropy,
    covariance,
    quantile,
)
from temper.parts.logprobs import OLD_ENTROPY
from temper.parts.losses import KL_SELECTED
from tests.parts.toys import BEHAVIOUR, batch, close, column, nan, recorder, run, said, tree


def episode(*turns, reward=None):
    """One trajectory of the given completions, or of ids for a demonstration."""
    r = recorder()
    parent = r.add((0,))
    for t in turns:
        parent = r.add(t, parent, author="solver") if isinstance(t, tuple) else r.sampled(t, parent)
    r.judge(tuple(range(len(r.turns))), reward=reward)
    return r.episode()


def test_greedy_attempts_are_left_out():
    b = Batch.of([episode(said(2, temperature=0.0)), episode(said(1, temperature=0.7))])
    assert run(NotGreedy(), b)[NOT_GREEDY].tolist() == [False, False, True]


def test_an_attempt_with_one_sampled_turn_is_not_greedy():
    b = Batch.of([episode(said(1, temperature=0.0), said(1, temperature=1.0))])
    assert run(NotGreedy(), b)[NOT_GREEDY].tolist() == [True, True]


def test_truncated_attempts_are_left_out_with_all_their_turns():
    b = Batch.of([episode(said(1), said(2, finish="length")), episode(said(2))])
    assert run(NotTruncated(), b)[NOT_TRUNCATED].tolist() == [False, False, False, True, True]


def test_a_shared_turn_stays_while_one_branch_ended_by_itself():
    r = recorder()
    stem = r.sampled(said(1), r.add((0,)))
    r.judge((0, stem, r.sampled(said(1, finish="length"), stem)))
    r.judge((0, stem, r.sampled(said(1), stem)))
    assert run(NotTruncated(), Batch.of([r.episode()]))[NOT_TRUNCATED].tolist() == [True, False, True]


def test_demonstrations_are_what_no_weights_sampled():
    b = Batch.of([episode((1, 2)), episode(said(2, version=0)), episode((3,), said(1, version=3))])
    assert run(MarkDemonstrations(), b)[DEMONSTRATION].tolist() == [True, True, False, False, True, False]


def test_rewarded_needs_a_reward_above_the_threshold():
    b = batch([[1, 2, 1, 1]], [[1.0, 0.0, nan, 0.4]])
    assert run(Rewarded(), b)[REWARDED].tolist() == [True, False, False, False, True]
    assert run(Rewarded(0.5), b)[REWARDED].tolist() == [True, False, False, False, False]


def test_all_of():
    a, c, out = (Column(n, TOKEN, boolean) for n in "aco")
    b = batch([[3]]).put(a, torch.tensor([True, True, False])).put(c, torch.tensor([True, False, False]))
    assert run(AllOf((a, c), out), b)[out].tolist() == [True, False, False]


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_quantile_is_torchs(q):
    x = torch.rand(13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(quantile(x, q), torch.quantile(x, q))


def test_top_entropy_keeps_a_fifth_of_the_batch():
    h = [0.1, 0.9, 0.2, 0.3, 0.0, 0.8, 0.4, 0.5, 0.6, 0.7]
    b = run(TopEntropy(0.8), column(batch([[4], [6]]), OLD_ENTROPY, h))
    assert b[HIGH_ENTROPY].nonzero().flatten().tolist() == [1, 5]


def test_top_entropy_leaves_out_tokens_without_entropy():
    b = run(TopEntropy(0.5), column(batch([[4]]), OLD_ENTROPY, [nan, 1.0, 2.0, 3.0]))
    assert b[HIGH_ENTROPY].tolist() == [False, False, True, True]


def covaried(a, logp):
    return column(column(batch([[len(a)]]), ADVANTAGE, a), BEHAVIOUR, logp)


def test_covariance_by_hand():
    # known: A = (1, −1, 3), mean 1; log π = (−1, −2, −6), mean −3
    b = covaried([1, -1, 3, nan, 5], [-1, -2, -6, -1, nan])
    assert close(covariance(b, BEHAVIOUR), [0, -2, -6, nan, nan])


def test_kl_cov_selects_the_highest():
    b = covaried([2, -2, 2, -2], [-1, -5, -4, -2])  # cov: 2·2, −2·−2, 2·−1, −2·1
    assert run(KLCovSelect(0.5), b)[KL_SELECTED].tolist() == [1, 1, 0, 0]


def test_kl_cov_selects_at_least_one_and_none_of_nothing():
    assert run(KLCovSelect(), covaried([2, -2], [-1, -2]))[KL_SELECTED].sum() == 1
    assert run(KLCovSelect(), covaried([nan, nan], [-1, -2]))[KL_SELECTED].sum() == 0


def test_clip_cov_draws_only_within_its_bounds():
    b = covaried([2, -2, 2, -2], [-1, -5, -4, -2])  # covariances 4, 4, −2, −2
    assert run(ClipCovSelect(1.0, 1.0, 5.0), b)[COV_KEPT].tolist() == [0, 0, 1, 1]
    assert run(ClipCovSelect(1.0, 4.0, 5.0), b)[COV_KEPT].tolist() == [1, 1, 1, 1]
    assert run(ClipCovSelect(1.0, -3.0, 4.0), b)[COV_KEPT].tolist() == [1, 1, 0, 0]
    assert run(ClipCovSelect(0.25, 1.0, 5.0), b)[COV_KEPT].sum() == 3


def draws(stage, n):
    b = covaried([2, -2] * 20, [-1, -5] * 20)
    return [asyncio.run(stage(b))[COV_KEPT].tolist() for _ in range(n)]


def test_clip_cov_draws_anew_and_resumes():
    straight = draws(ClipCovSelect(0.2), 4)
    assert straight == draws(ClipCovSelect(0.2), 4)
    assert straight[0] != straight[1] and straight != draws(ClipCovSelect(0.2, seed=1), 4)
    first, second = ClipCovSelect(0.2), ClipCovSelect(0.2)
    head = draws(first, 2)
    second.load_state_dict(first.state_dict())
    assert head + draws(second, 2) == straight


def test_gates_work_on_trees_and_empty_batches():
    for b in (tree(), batch([[0, 0]], [[1.0, nan]])):
        for stage in (NotGreedy(), NotTruncated(), MarkDemonstrations(), Rewarded()):
            assert len(run(stage, b)[stage.writes[0]]) == b.size(TOKEN)
