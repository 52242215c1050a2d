import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TRAJECTORY
from temper.parts.advantages import (
    Advantage,
    BatchStd,
    DecoupledAdvantage,
    GreedyReward,
    GroupStd,
    ReturnToGo,
    Whiten,
    all_but_best,
    batch_mean,
    group_mean,
    leave_one_out,
    length_weighted_mean,
    no_baseline,
    share_with_signal,
    unscaled,
)
from temper.parts.kl import TOKEN_REWARD
from tests.parts.toys import batch, close, column, nan, of_request, recorder, run, said, tree

GROUP_BASELINES = [group_mean, leave_one_out, length_weighted_mean, all_but_best]


def credit(stage, lengths, rewards):
    return run(stage, batch(lengths, rewards))[ADVANTAGE]


def test_grpo_is_a_z_score_with_unbiased_sigma():
    # μ = ½, σ² = 4·¼/3 = ⅓
    a = credit(Advantage(scale=GroupStd(0.0)), [[1, 1, 1, 1]], [[1, 0, 0, 1]])
    assert close(a, [3**0.5 / 2, -(3**0.5) / 2, -(3**0.5) / 2, 3**0.5 / 2])


def test_grpo_adds_epsilon_to_sigma():
    assert close(credit(Advantage(scale=GroupStd(0.5**0.5)), [[1, 1]], [[1, 0]]), [0.5 / 2**0.5, -0.5 / 2**0.5])


def test_every_token_of_a_trajectory_has_its_advantage():
    assert close(credit(Advantage(scale=unscaled), [[2, 3]], [[1, 0]]), [0.5, 0.5, -0.5, -0.5, -0.5])


def test_unjudged_trajectories_enter_no_statistic_and_stay_nan():
    a = credit(Advantage(scale=GroupStd(0.0)), [[1, 1, 1]], [[1, 0, nan]])  # μ = ½, σ = √½
    assert close(a, [0.5**0.5, -(0.5**0.5), nan])


def test_a_group_that_nobody_judged_has_no_advantage():
    assert credit(Advantage(), [[1, 1]], [[nan, nan]]).isnan().all()


@pytest.mark.parametrize("baseline", GROUP_BASELINES)
@pytest.mark.parametrize("scale", [unscaled, GroupStd(1e-6), BatchStd(1e-6)])
def test_equal_rewards_give_exactly_zero(baseline, scale):
    # 0.1 is no binary fraction: its float32 mean over 7 is off by one unit in the last place
    a = credit(Advantage(baseline, scale), [[1, 2, 3, 1, 2, 3, 5], [1, 1]], [[0.1] * 7, [1, 0]])
    assert (a[:17] == 0).all() and (a[17:] != 0).any()


@pytest.mark.parametrize("baseline", [group_mean, leave_one_out, length_weighted_mean])
def test_a_group_of_one_keeps_its_reward(baseline):
    assert close(credit(Advantage(baseline), [[2]], [[0.7]]), [0.7, 0.7])


@pytest.mark.parametrize("baseline", GROUP_BASELINES)
def test_the_only_judged_one_of_several_gets_zero(baseline):
    assert close(credit(Advantage(baseline), [[1, 1]], [[0.7, nan]]), [0, nan])


def test_rloo_by_hand():
    # baselines: (2+6)/2 = 4, (1+6)/2 = 3.5, (1+2)/2 = 1.5
    assert close(credit(Advantage(leave_one_out, unscaled), [[1, 1, 1]], [[1, 2, 6]]), [-3, -1.5, 4.5])


@pytest.mark.parametrize("n", [2, 3, 8])
def test_rloo_is_the_centred_reward_times_g_over_g_minus_1(n):  # baseline check (b)
    r = torch.randn(n, generator=torch.Generator().manual_seed(n)).tolist()
    left_out, centred = (credit(Advantage(f, unscaled), [[1] * n], [r]) for f in (leave_one_out, group_mean))
    assert close(left_out, (centred * n / (n - 1)).tolist(), 1e-6)


def test_opo_weights_the_baseline_by_length():
    assert close(credit(Advantage(length_weighted_mean, unscaled), [[1, 3]], [[1, 0]]), [0.75, -0.25, -0.25, -0.25])


def test_opo_leaves_out_the_length_of_the_unjudged():
    a = credit(Advantage(length_weighted_mean, unscaled), [[1, 3, 9]], [[1, 0, nan]])
    assert close(a, [0.75] + [-0.25] * 3 + [nan] * 9)


def test_pass_at_k_credits_the_best_with_its_lead():
    assert close(credit(Advantage(all_but_best, unscaled), [[1, 1, 1]], [[0, 1, 0.4]]), [0, 0.6, 0])


def test_pass_at_k_gives_nothing_for_a_tie_or_a_singleton():
    assert close(credit(Advantage(all_but_best, unscaled), [[1, 1, 1], [1]], [[1, 1, 0], [1]]), [0, 0, 0, 0])


def test_remax_takes_the_greedy_reward():
    episodes = []
    for reward, temperature in ((1.0, 1.0), (0.0, 1.0), (0.5, 0.0)):
        r = recorder()
        r.judge((0, r.sampled(said(1, temperature=temperature), r.add((0,)))), reward=reward)
        episodes.append(r.episode())
    a = run(Advantage(GreedyReward(), unscaled), Batch.of(episodes))[ADVANTAGE]
    assert close(a, [0.5, -0.5, 0.0])


def test_remax_without_a_greedy_attempt_has_no_baseline():
    assert credit(Advantage(GreedyReward(), unscaled), [[1, 1]], [[1, 0]]).isnan().all()


def test_batch_baseline_and_scale():
    a = credit(Advantage(batch_mean, BatchStd(0.0)), [[1, 1], [1, 1]], [[1, 0], [1, 1]])  # mean ¾, σ = ½
    assert close(a, [0.5, -1.5, 0.5, 0.5])


def test_gpg_makes_up_for_silent_groups():
    # one of two groups has signal: ±½ becomes ±1
    a = credit(Advantage(group_mean, share_with_signal), [[1, 1], [1, 1]], [[1, 0], [1, 1]])
    assert close(a, [1, -1, 0, 0])


def test_gpg_with_no_signal_at_all_is_zero():
    assert (credit(Advantage(group_mean, share_with_signal), [[1, 1]], [[1, 1]]) == 0).all()


def test_no_baseline_is_the_reward():
    assert close(credit(Advantage(no_baseline, unscaled), [[1, 2]], [[1, -2]]), [1, -2, -2])


def parts(a, b):
    out = batch([[1] * len(a)])
    return out.put(REWARD.of("a"), torch.tensor(a)).put(REWARD.of("b"), torch.tensor(b))


def test_gdpo_normalises_each_part_before_the_sum():
    # a: (1, 0, 1) has μ ⅔, σ √⅓; b: (0, 0, 10) has μ 10/3, σ √(100/3). Per part z: a (1,−2,1)/√3, b (−1,−1,2)/√3.
    # Sum: (0, −3, 3)/√3, whose σ is √3: A = (0, −1, 1).
    stage = DecoupledAdvantage({"a": 1.0, "b": 1.0}, GroupStd(0.0), eps=0.0)
    assert close(run(stage, parts([1.0, 0, 1], [0.0, 0, 10]))[ADVANTAGE], [0, -1, 1])


def test_gdpo_weights_the_normalised_parts():
    # z of a: (1, −1)/√2; of b: (−1, 1)/√2, three times: total (−√2, √2), σ = 2
    stage = DecoupledAdvantage({"a": 1.0, "b": 3.0}, GroupStd(0.0), eps=0.0)
    assert close(run(stage, parts([7.0, 0.0], [0.0, 0.1]))[ADVANTAGE], [-(0.5**0.5), 0.5**0.5])
    stage = DecoupledAdvantage({"a": 1.0, "b": 0.5}, GroupStd(0.0), eps=1.0)  # total ±√½/2, σ = ½
    assert close(run(stage, parts([7.0, 0.0], [0.0, 0.1]))[ADVANTAGE], [2**0.5 / 4 / 1.5, -(2**0.5) / 4 / 1.5])


def test_gdpo_centres_over_the_batch():
    # a group of one keeps its 3: totals (3, √½, −√½), mean 1
    b = batch([[1], [1, 1]]).put(REWARD.of("a"), torch.tensor([3.0, 1.0, 0.0]))
    a = run(DecoupledAdvantage({"a": 1.0}, GroupStd(0.0), eps=0.0), b)[ADVANTAGE]
    sigma = ((4 + (0.5**0.5 - 1) ** 2 + (0.5**0.5 + 1) ** 2) / 2) ** 0.5
    assert close(a, [2 / sigma, (0.5**0.5 - 1) / sigma, -(0.5**0.5 + 1) / sigma])


def test_gdpo_leaves_out_missing_parts():
    # z of a: ±√½; b only judges the first, alone: 0. Total (√½, −√½), σ = 1.
    stage = DecoupledAdvantage({"a": 1.0, "b": 5.0}, GroupStd(0.0), eps=0.0)
    assert close(run(stage, parts([1.0, 0.0], [1.0, nan]))[ADVANTAGE], [0.5**0.5, -(0.5**0.5)])


def test_return_to_go_by_hand():
    b = column(batch([[2]], [[1.0]]), TOKEN_REWARD, [-0.1, -0.2])
    assert close(run(ReturnToGo(1.0, token_reward=TOKEN_REWARD), b)[ADVANTAGE], [0.7, 0.8])
    assert close(run(ReturnToGo(0.5, token_reward=TOKEN_REWARD), b)[ADVANTAGE], [0.3, 0.8])
    assert close(run(ReturnToGo(0.5), b)[ADVANTAGE], [0.5, 1.0])


def test_return_to_go_of_the_unjudged_is_nan():
    assert close(run(ReturnToGo(), batch([[2, 1]], [[nan, 1.0]]))[ADVANTAGE], [nan, nan, 1])


def test_whitening_by_hand():
    b = column(batch([[2, 2]]), ADVANTAGE, [1, 2, 3, nan])  # mean 2, unbiased variance 1
    assert close(run(Whiten(), b)[ADVANTAGE], [-1, 0, 1, nan])
    assert close(run(Whiten(shift=False), b)[ADVANTAGE], [1, 2, 3, nan])


def test_whitening_equal_values_gives_zero_and_one_value_stays():
    assert (run(Whiten(), column(batch([[3]]), ADVANTAGE, [2, 2, 2]))[ADVANTAGE] == 0).all()
    assert close(run(Whiten(), column(batch([[2]]), ADVANTAGE, [5, nan]))[ADVANTAGE], [5, nan])


def test_a_shared_segment_gets_the_mean_of_its_branches():
    a = run(Advantage(scale=unscaled), tree((1.0, 0.0)))[ADVANTAGE]
    assert close(a, [0, 0, 0.5, -0.5, -0.5, -0.5])


def test_a_shared_segment_ignores_an_unjudged_branch():
    a = run(Advantage(no_baseline, unscaled), tree((1.0, None)))[ADVANTAGE]
    assert close(a, [1, 1, 1, nan, nan, nan])


def test_a_trajectory_without_tokens_still_counts_in_the_group():
    r = recorder()
    r.judge((r.add((0, 1)),), reward=1.0)
    b = Batch.concat([Batch.of([of_request(r, "0")]), batch([[2]], [[0.0]])])
    merged = Batch.of([of_request(r, "0"), *episodes_of_one(0.0)])
    assert merged.size(TRAJECTORY) == 2 and merged.size(GROUP) == 1 and b.size(GROUP) == 2
    assert close(run(Advantage(scale=unscaled), merged)[ADVANTAGE], [-0.5, -0.5])


def episodes_of_one(reward):
    r = recorder()
    r.judge((0, r.sampled(said(2), r.add((0, 1)))), reward=reward)
    return [of_request(r, "0")]


def test_groups_do_not_leak_into_one_another():
    a = credit(Advantage(scale=unscaled), [[1, 1], [1, 1, 1]], [[1, 0], [9, 3, 3]])
    assert close(a, [0.5, -0.5, 4, -2, -2])
