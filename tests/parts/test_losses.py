import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, GROUP, LOGP, TOKEN, TRAJECTORY
from temper.objective import (
    LIVE,
    SeqMeanTokenSumNorm,
    Term,
    luspo,
    seq_mean_token_mean,
    seq_mean_token_sum,
    token_mean,
)
from temper.parts.kl import KL, k2, k3_plus
from temper.parts.logprobs import OLD, REFERENCE
from temper.parts.losses import (
    CISPO,
    GMPO,
    GSPO,
    KL_SELECTED,
    SAPO,
    VESPO,
    Clip,
    EntropyBonus,
    KLCov,
    OffPolicyMask,
    Reinforce,
    Surrogate,
    Weighted,
)
from temper.parts.ratios import TIS_WEIGHT, TruncatedIS, corrected
from tests.parts.toys import BEHAVIOUR, SoftmaxPolicy, batch, close, column, nan, partition, run, tree

MODES = [token_mean, seq_mean_token_mean, seq_mean_token_sum, SeqMeanTokenSumNorm(8), luspo]
RATIO_LOSSES = [Surrogate(), Clip(), Clip(dual=3.0), GSPO(), GMPO(), CISPO(), SAPO(), VESPO(), KLCov()]


def tokens(ratios, advantages, lengths=None):
    """A batch whose live log-probs give these ratios to the sampler's −1; LOGP requires grad."""
    b = batch([lengths or [len(ratios)]])
    b = column(b, BEHAVIOUR, [-1.0] * len(ratios))
    b = column(b, ADVANTAGE, advantages)
    logp = torch.tensor([-1 + math.log(r) for r in ratios], dtype=torch.float64, requires_grad=True)
    return b.put(LOGP, logp).put(KL_SELECTED, torch.zeros(len(ratios), dtype=torch.float64)), logp


def evaluate(loss, b, logp, per=token_mean):
    """The loss's values, and the gradient of their weighted sum with respect to the live log-probs."""
    term = Term("policy", loss, per=per)
    values, _ = term.values(b)
    (term.weights(b).double() * values).sum().backward()
    return values.detach(), logp.grad


# values and gradients by hand -----------------------------------------------------------------------------------------


def test_reinforce():
    values, gradient = evaluate(Reinforce(), *tokens([1.0, 1.0], [2.0, -1.0]), per=lambda b, live: live)
    assert close(values, [2, -1]) and close(gradient, [-2, 1])


@pytest.mark.parametrize(
    "ratio, a, value, slope",
    [
        (1.5, 1.0, -1.2, 0.0),  # clipped above
        (1.1, 1.0, -1.1, -1.1),
        (0.5, 1.0, -0.5, -0.5),  # min keeps the pessimistic side
        (0.5, -1.0, 0.8, 0.0),  # clipped below
        (1.5, -1.0, 1.5, 1.5),
    ],
)
def test_ppo_clip(ratio, a, value, slope):
    values, gradient = evaluate(Clip(0.2, 0.2), *tokens([ratio], [a]))
    assert close(values, [value]) and close(gradient, [slope])


def test_clip_higher_moves_only_the_upper_bound():
    values, _ = evaluate(Clip(0.2, 0.28), *tokens([1.5, 0.5], [1.0, -1.0]))
    assert close(values, [-1.28, 0.8])


def test_dual_clip_bounds_the_loss_for_negative_advantages():
    values, gradient = evaluate(Clip(dual=3.0), *tokens([5.0, 2.0, 5.0], [-1.0, -1.0, 1.0]))
    assert close(values, [3, 2, -1.2]) and close(gradient * 3, [0, 2, 0])


def test_clip_metrics_count_what_was_clipped():
    b, _ = tokens([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0])
    _, metrics = Term("policy", Clip()).values(b)
    assert metrics["clip_ratio/region_mean"].tolist() == [1, 0, 0, 1]


def test_gspo_takes_the_geometric_mean_ratio_of_the_sequence():
    # trajectory 0: √(1.1·0.9) at both tokens; trajectory 1: 1.05
    s = math.sqrt(0.99)
    values, gradient = evaluate(GSPO(0.5, 0.5), *tokens([1.1, 0.9, 1.05], [1.0, 1.0, -2.0], [2, 1]))
    assert close(values, [-s, -s, 2.1]) and close(gradient * 3, [-s, -s, 2.1])


def test_gspo_with_credit_per_token_is_gspo_token():
    s = math.sqrt(0.99)
    values, gradient = evaluate(GSPO(0.5, 0.5), *tokens([1.1, 0.9], [1.0, -2.0]))
    assert close(values, [-s, 2 * s]) and close(gradient * 2, [-s, 2 * s])


def test_gspo_clips_whole_sequences():
    values, gradient = evaluate(GSPO(), *tokens([1.1, 1.1, 0.9], [1.0, 1.0, -1.0], [2, 1]))
    assert close(values, [-1.0004, -1.0004, 0.9997]) and close(gradient, [0, 0, 0])


def test_gmpo_clips_tokens_before_the_geometric_mean():
    # log ρ = (1, 0.2) with A > 0: the first is cut to 0.4, so the mean is 0.3; the cut token has no gradient
    g = math.exp(0.3)
    values, gradient = evaluate(GMPO(0.4), *tokens([math.e, math.exp(0.2)], [1.0, 1.0]), per=seq_mean_token_mean)
    assert close(values, [-g, -g]) and close(gradient, [0, -g / 2])


def test_gmpo_clips_from_below_for_negative_advantages():
    g = math.exp(-0.4)
    values, gradient = evaluate(GMPO(0.4), *tokens([math.exp(-1)], [-1.0]))
    assert close(values, [g]) and close(gradient, [0])
    values, _ = evaluate(GMPO(0.4), *tokens([math.e], [-1.0]))
    assert close(values, [math.e])


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    values, gradient = evaluate(CISPO(2.0, 0.5), *tokens([4.0, 0.25, 1.5], [1.0, 1.0, -1.0]), per=lambda b, live: live)
    assert close(gradient, [-2, -0.5, 1.5])
    assert close(values, [-2 * (math.log(4) - 1), -0.5 * (math.log(0.25) - 1), 1.5 * (math.log(1.5) - 1)])


def test_sapo_by_hand():
    # τ = 1 for A > 0: 4σ(1) at ρ = 2; τ = 1.05 for A < 0
    values, gradient = evaluate(SAPO(1.0, 1.05), *tokens([2.0, 2.0], [1.0, -1.0]), per=lambda b, live: live)
    up, down = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1.05))
    assert close(values, [-4 * up, 4 / 1.05 * down])
    assert close(gradient, [-4 * up * (1 - up) * 2, 4 * down * (1 - down) * 2])


def test_vespo_weighs_the_sequence():
    # W = 1.2·1.5 = 1.8; φ = e³·1.8²·e^(−5.4) for A ≥ 0; W = ½: φ = e²·½³·e^(−1) for A < 0
    up, down = math.exp(3 - 5.4) * 1.8**2, math.e / 8
    b, logp = tokens([1.2, 1.5, 0.5], [1.0, 1.0, -1.0], [2, 1])
    _, gradient = evaluate(VESPO(), b, logp, per=lambda b, live: live)
    assert close(gradient, [-up, -up, down])


def test_kl_cov_holds_the_marked_tokens_back():
    b, logp = tokens([2.0, 2.0, 0.5], [1.0, 1.0, 1.0])
    b = column(b, KL_SELECTED, [1, 0, 1])
    values, gradient = evaluate(KLCov(0.5), b, logp, per=lambda b, live: live)
    half = 0.5 * math.log(2)
    assert close(values, [-2 + half, -2, -0.5 + half]) and close(gradient, [-1.5, -2, -1.0])


def test_entropy_bonus():
    assert EntropyBonus()(column(batch([[2]]), ENTROPY, [0.5, 1.5])).tolist() == [-0.5, -1.5]


def test_weights_multiply_without_gradient_and_keep_the_denominator():
    b, logp = tokens([1.0, 1.0], [1.0, 1.0])
    w = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)
    _, gradient = evaluate(Weighted(Surrogate(), (TIS_WEIGHT,)), b.put(TIS_WEIGHT, w), logp)
    assert close(gradient, [-0.25, 0]) and w.grad is None


def test_rows_without_a_weight_are_not_the_terms():
    b, _ = tokens([1.0, 1.0], [1.0, 1.0])
    term = Term("policy", Weighted(Surrogate(), (TIS_WEIGHT,)))
    assert term.weights(column(b, TIS_WEIGHT, [nan, 2.0])).tolist() == [0, 1]


def test_off_policy_mask_drops_unlikely_mistakes_only():
    # mean log(π_b/π_θ): trajectory 0: −log 0.5 = 0.69 > ½; 1: the same with A > 0; 2: (0.69 + 0)/2 < ½
    b, logp = tokens([0.5, 0.5, 0.5, 1.0], [-1.0, 1.0, -1.0, -1.0], [1, 1, 2])
    values, gradient = evaluate(OffPolicyMask(Surrogate(), 0.5), b, logp)
    assert close(values, [0, -0.5, 0.5, 1.0]) and gradient[0] == 0


# what a term leaves alone ---------------------------------------------------------------------------------------------


def test_sequence_ratios_are_taken_over_the_terms_tokens_only():
    # the second token is a demonstration's (no behaviour log-prob): the mean is the first's alone
    b, _ = tokens([1.1, 7.0], [1.0, 1.0])
    b = column(b, BEHAVIOUR, [-1.0, nan])
    for loss, value in ((GSPO(0.5, 0.5), -1.1), (GMPO(), -1.1)):
        values, _ = Term("policy", loss).values(b)
        assert close(values[:1], [value])
    values, metrics = Term("policy", VESPO()).values(b)
    assert close(metrics["phi"][:1], [math.exp(3 + 2 * math.log(1.1) - 3.3)])


@pytest.mark.parametrize("loss", RATIO_LOSSES, ids=lambda x: type(x).__name__)
def test_dead_rows_give_no_gradient_and_no_nan(loss):
    b, logp = tokens([1.1, 1.2, 0.9, 1.3], [1.0, nan, -1.0, nan], [2, 1, 1])
    b = column(b, BEHAVIOUR, [-1.0, nan, -1.0, nan])
    _, gradient = evaluate(loss, b, logp)
    assert gradient.isfinite().all() and gradient[1] == 0 and gradient[3] == 0


def test_a_shared_token_has_the_mean_log_ratio_of_its_trajectories():
    b = column(column(tree(), BEHAVIOUR, [-1.0] * 6), ADVANTAGE, [1.0] * 6)
    logp = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.0, 0.3]) - 1  # means: 0.6/3 = 0.2 and 0.6/5 = 0.12
    values, _ = Term("policy", GSPO(0.5, 0.5)).values(b.put(LOGP, logp))
    left, right, both = (-math.exp(x) for x in (0.2, 0.12, 0.16))
    assert close(values, [both, both, left, right, right, right])


def test_losses_read_what_they_declare():
    b, _ = tokens([1.0, 1.1], [1.0, -1.0])
    for loss in [*RATIO_LOSSES, OffPolicyMask(Clip()), Reinforce()]:
        trace = set()
        loss(b.put(LIVE, torch.ones(2)).traced(trace))
        assert {name for kind, name in trace if kind == "read"} == {c.name for c in loss.reads}


# baseline checks ------------------------------------------------------------------------------------------------------


def ragged(seed=0, off_policy=True):
    """Three groups of trajectories of 0 to 4 tokens with random credit; some of it NaN."""
    b = batch([[3, 0, 2], [4, 1], [2, 2, 1]])
    g = torch.Generator().manual_seed(seed)
    n = b.size(TOKEN)
    a = b.spread(torch.randn(b.size(TRAJECTORY), generator=g, dtype=torch.float64), TRAJECTORY, TOKEN)
    a[4] = nan
    b = b.put(ADVANTAGE, a).put(KL_SELECTED, (torch.rand(n, generator=g) < 0.3).double())
    policy = SoftmaxPolicy(seed)
    b = policy.read(b, {BEHAVIOUR: LOGP})
    noise = torch.randn(n, generator=g, dtype=torch.float64) * 0.1 if off_policy else torch.zeros(n)
    b = b.put(BEHAVIOUR, b[BEHAVIOUR] + noise).put(OLD, b[BEHAVIOUR])
    return policy, b.put(REFERENCE, b[OLD] + 0.3 * torch.randn(n, generator=g, dtype=torch.float64))


@pytest.mark.parametrize("per", MODES, ids=["token", "seq-token", "seq-sum", "seq-sum-norm", "luspo"])
@pytest.mark.parametrize("loss", [*RATIO_LOSSES, OffPolicyMask(Clip(), 0.05)], ids=lambda x: type(x).__name__)
def test_any_split_gives_the_same_gradient(loss, per):  # baseline check (a)
    policy, b = ragged()
    terms = [Term("policy", loss, per=per), Term("kl", KL(k3_plus), 0.1, per=per), Term("h", EntropyBonus(), 0.01)]
    whole = policy.gradient(b, terms)
    assert whole.abs().max() > 1e-4
    for seed in range(6):
        for level in (TRAJECTORY, GROUP):
            cut = policy.gradient(b, terms, partition(b, level, 2 + seed, seed))
            assert torch.allclose(whole, cut, atol=1e-12, rtol=0)


@pytest.mark.parametrize("per", MODES, ids=["token", "seq-token", "seq-sum", "seq-sum-norm", "luspo"])
@pytest.mark.parametrize("loss", [Clip(), GSPO(0.1, 0.1), VESPO()], ids=lambda x: type(x).__name__)
def test_trees_travel_whole_and_give_the_same_gradient(loss, per):  # baseline check (a)
    b = Batch.concat([tree(), batch([[2, 3]]), tree()])
    g = torch.Generator().manual_seed(0)
    policy, n = SoftmaxPolicy(0), b.size(TOKEN)
    b = b.put(ADVANTAGE, torch.randn(n, generator=g, dtype=torch.float64))
    b = policy.read(b, {BEHAVIOUR: LOGP})
    b = b.put(BEHAVIOUR, b[BEHAVIOUR] + 0.1 * torch.randn(n, generator=g, dtype=torch.float64))
    terms = [Term("policy", loss, per=per)]
    whole = policy.gradient(b, terms)
    assert whole.abs().max() > 1e-4
    for seed in range(4):
        assert torch.allclose(whole, policy.gradient(b, terms, partition(b, GROUP, 3, seed)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", RATIO_LOSSES, ids=lambda x: type(x).__name__)
def test_on_policy_every_loss_has_reinforces_gradient(loss):  # baseline check (e)
    policy, b = ragged(off_policy=False)
    b = b.put(KL_SELECTED, torch.zeros(b.size(TOKEN)))
    gradients = [policy.gradient(b, [Term("policy", x, per=seq_mean_token_mean)]) for x in (loss, Reinforce())]
    assert gradients[1].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", [Surrogate(), Clip(), CISPO(), SAPO()], ids=lambda x: type(x).__name__)
def test_bypass_equals_the_corrected_loss_when_sampler_and_learner_agree(loss):  # baseline check (f)
    policy, b = ragged()
    b = run(TruncatedIS(), b.put(OLD, b[BEHAVIOUR]))
    assert (b[TIS_WEIGHT] == 1).all()
    bypass, decoupled = (policy.gradient(b, [Term("policy", x)]) for x in (loss, corrected(loss)))
    assert torch.equal(bypass, decoupled)


def test_uncapped_correction_of_the_unclipped_loss_is_the_full_ratio():
    policy, b = ragged()
    b = run(TruncatedIS(cap=1e6), b.put(OLD, b[BEHAVIOUR] + 0.2))
    bypass, decoupled = (policy.gradient(b, [Term("policy", x)]) for x in (Surrogate(), corrected(Surrogate())))
    assert torch.allclose(bypass, decoupled, atol=1e-12, rtol=0)


def test_a_kl_term_does_not_dilute_the_policy_term():
    policy, b = ragged()
    one, kl = Term("policy", Clip()), Term("kl", KL(k2), 0.5)
    total = policy.gradient(b, [one]) + policy.gradient(b, [kl])
    assert torch.allclose(policy.gradient(b, [one, kl]), total, atol=1e-14, rtol=0)
