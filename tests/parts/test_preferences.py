import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import GROUP, LOGP, TOKEN
from temper.objective import Term, row_mean, token_mean
from temper.parts.logprobs import REFERENCE
from temper.parts.preferences import (
    CHOSEN_TOKEN,
    DPO,
    ORPO,
    PAIRED,
    PREFERENCE,
    Logistic,
    PairsFromInfo,
    PairsFromReward,
    Robust,
    hinge,
    squared,
)
from temper.parts.sft import NLL
from tests.parts.toys import SoftmaxPolicy, batch, close, column, nan, of_request, partition, recorder, run


def pairs(*groups):
    """Groups of demonstrations (length, chosen), labelled by the data set."""
    episodes = []
    for g, group in enumerate(groups):
        for n, chosen in group:
            r = recorder()
            info = {} if chosen is None else {"chosen": chosen}
            r.judge((0, r.add(tuple(range(n)), r.add((0,)), author="solver")), info=info)
            episodes.append(of_request(r, str(g)))
    return run(PairsFromInfo(), Batch.of(episodes))


def scored(b, logp, reference=None):
    b = column(b, LOGP, logp)
    return column(b, REFERENCE, reference or [0.0] * len(logp))


def test_pairs_from_the_data_set():
    b = pairs([(1, True), (2, False)], [(1, False), (1, True), (1, None)], [(1, True), (1, True)])
    assert b[PREFERENCE].tolist() == [1, -1, -1, 1, 0, 1, 1]
    assert b[PAIRED].tolist() == [True, True, False]
    assert b[CHOSEN_TOKEN].tolist() == [True, False, False, False, True, False, False, False]


def test_pairs_from_rewards():
    b = run(PairsFromReward(), batch([[1] * 4, [1, 1], [1, 1]], [[0, 1, 0, 1], [1, 1], [1, nan]]))
    assert b[PREFERENCE].tolist() == [-1, 1, 0, 0, 0, 0, 0, 0]
    assert b[PAIRED].tolist() == [True, False, False]


def margin_of_two(link, **options):
    # chosen (−1, −1) against reference (−2, −1): Δ = 1; rejected (−3) against (−2): Δ = −1; h = 2
    b = scored(pairs([(2, True), (1, False)]), [-1, -1, -3], [-2, -1, -2])
    return DPO(0.5, link, **options)(b)[0]


def test_dpo_by_hand():
    assert close(margin_of_two(Logistic()), [math.log(1 + math.exp(-1))])


def test_links_by_hand():
    up, down = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert close(margin_of_two(Logistic(0.25)), [0.75 * up + 0.25 * down])
    assert close(margin_of_two(Robust(0.25)), [(0.75 * up - 0.25 * down) / 0.5])
    assert close(margin_of_two(hinge), [0])
    assert close(margin_of_two(squared), [1])  # (2 − 1)²
    assert close(margin_of_two(squared, average=True), [0.25])  # h = ½ + 1


def test_robust_dpo_is_unbiased_under_flipped_labels():
    h, noise = torch.tensor([0.7]), 0.3
    expected = (1 - noise) * Robust(noise)(h, 1.0) + noise * Robust(noise)(-h, 1.0)
    assert torch.allclose(expected, Logistic()(h, 1.0))


def test_ld_dpo_discounts_what_exceeds_the_shorter_answer():
    # chosen log-ratios (1, 2, 4), rejected (1): common length 1, α = ½: (1 + 3) − 1 = 3
    b = scored(pairs([(3, True), (1, False)]), [1, 2, 4, 1])
    assert close(DPO(1.0, squared, tail=0.5)(b)[0], [6.25])
    plain, one = (DPO(1.0, squared, tail=t)(b)[0] for t in (1.0, 1 - 1e-12))
    assert torch.allclose(plain, one)


def test_metrics():
    b = scored(pairs([(1, True), (1, False)], [(1, True), (1, False)]), [-1, -2, -2, -1])
    _, metrics = DPO(0.5)(b)
    assert metrics["rewards/margins"].tolist() == [0.5, -0.5] and metrics["rewards/accuracies"].tolist() == [1, 0]


def test_orpo_by_hand():
    # l_c = −log 2, l_r = −log 4: odds 1 and ⅓, log odds ratio log 3: −l_c + λ·log(1 + ⅓)
    b = scored(pairs([(2, True), (1, False)]), [-math.log(2)] * 2 + [-math.log(4)])
    assert close(ORPO(0.5)(b)[0], [math.log(2) + 0.5 * math.log(4 / 3)])


def test_orpo_survives_certainty():
    b = column(pairs([(1, True), (1, False)]), LOGP, [0.0, -1.0])
    b = b.put(LOGP, b[LOGP].requires_grad_())
    loss = ORPO()(b)[0]
    (gradient,) = torch.autograd.grad(loss.sum(), b[LOGP])
    assert loss.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", [DPO(), DPO(link=squared, average=True), DPO(tail=0.5), ORPO()])
def test_groups_without_a_pair_are_not_the_terms(loss):
    b = pairs([(2, True), (1, False)], [(1, True), (1, None)], [(0, True), (2, False)])
    policy = SoftmaxPolicy()
    b = column(b, REFERENCE, [-1.0] * b.size(TOKEN))
    term = Term("policy", loss, per=row_mean, where=PAIRED)
    assert term.weights(b).tolist() == [0.5, 0, 0.5]
    assert policy.gradient(b, [term]).isfinite().all()


@pytest.mark.parametrize("loss", [DPO(), DPO(tail=0.5), ORPO()])
def test_any_split_of_groups_gives_the_same_gradient(loss):
    b = pairs([(2, True), (1, False)], [(3, False), (1, True)], [(1, True), (4, False)], [(1, True)])
    policy = SoftmaxPolicy()
    b = column(b, REFERENCE, [-1.0 - 0.1 * i for i in range(b.size(TOKEN))])
    terms = [Term("policy", loss, per=row_mean, where=PAIRED), Term("sft", NLL(), 0.5, token_mean, CHOSEN_TOKEN)]
    whole = policy.gradient(b, terms)
    assert whole.abs().max() > 1e-3
    for seed in range(5):
        assert torch.allclose(whole, policy.gradient(b, terms, partition(b, GROUP, 3, seed)), atol=1e-12, rtol=0)


def test_losses_read_what_they_declare():
    b = scored(pairs([(2, True), (1, False)]), [-1, -1, -3])
    for loss in (DPO(), DPO(tail=0.5), ORPO()):
        trace = set()
        loss(b.traced(trace))
        assert {name for _, name in trace} == {c.name for c in loss.reads}


def test_nll_is_minus_logp():
    assert NLL()(column(batch([[2]]), LOGP, [-0.5, -2.0])).tolist() == [0.5, 2.0]
