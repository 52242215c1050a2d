import math

import pytest

from temper.columns import TRAJECTORY
from temper.parts.logprobs import OLD
from temper.parts.ratios import MATCHED, TIS_WEIGHT, Matched, TruncatedIS, k1, k2, k3, mask
from tests.parts.toys import BEHAVIOUR, batch, close, column, nan, run

LOG2 = math.log(2)


def mismatched(ell, lengths):
    b = column(batch([lengths]), BEHAVIOUR, [-1.0 if x == x else nan for x in ell])
    return column(b, OLD, [-1.0 + (x if x == x else 0.3) for x in ell])


def weights(stage, ell, lengths):
    return run(stage, mismatched(ell, lengths))[TIS_WEIGHT]


def test_token_ratios_are_truncated():
    assert close(weights(TruncatedIS(2.0), [0, LOG2 / 2, 2, -LOG2], [4]), [1, math.sqrt(2), 2, 0.5])


def test_sequence_ratios_are_products_and_truncated_whole():
    ell = [LOG2 / 2, LOG2 / 2, LOG2, LOG2, -LOG2]
    assert close(weights(TruncatedIS(3.0, TRAJECTORY), ell, [2, 2, 1]), [2, 2, 3, 3, 0.5])


def test_masking_drops_what_truncation_caps():
    ell = [LOG2 / 2, LOG2 / 2, LOG2, LOG2, -LOG2]
    assert close(weights(TruncatedIS(3.0, TRAJECTORY, mask), ell, [2, 2, 1]), [2, 2, 0, 0, 0.5])


def test_normalised_weights_average_one():
    w = weights(TruncatedIS(2.0, normalise=True), [0, 2, nan], [2, 1])
    assert close(w, [2 / 3, 4 / 3, nan])


@pytest.mark.parametrize("level", [0, TRAJECTORY])
def test_demonstrations_have_no_weight(level):
    assert close(weights(TruncatedIS(2.0, level), [nan, LOG2 / 2], [2]), [nan, math.sqrt(2)])


def test_metrics_tell_how_often_the_cap_bites():
    stage = TruncatedIS(2.0)
    run(stage, mismatched([0, 2], [2]))
    assert stage.metrics == {"sampling/importance_sampling_ratio/mean": pytest.approx(1.5), "tis_capped": 0.5}


def test_token_band():
    kept = run(Matched(0.5, 2.0), mismatched([0, 0.8, -0.8, 0.6, nan], [5]))[MATCHED]
    assert kept.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    "statistic, low, high, kept",
    [
        (k1, -0.1, 0.1, [True, True, False, False]),  # the signed mean cancels in the first
        (k2, 0.0, 0.1, [False, False, True, True]),  # means ½ and 0.045
        (k3, 0.0, 0.5, [False, False, True, True]),  # means cosh(1) − 1 = 0.543 and 0.05
    ],
)
def test_a_trajectory_is_judged_by_its_mean(statistic, low, high, kept):
    b = run(Matched(low, high, statistic, TRAJECTORY), mismatched([1, -1, 0.3, 0.3], [2, 2]))
    assert b[MATCHED].tolist() == kept


def test_far_apart_stays_finite():
    assert weights(TruncatedIS(2.0, TRAJECTORY), [60.0, 60.0, -60.0], [2, 1]).isfinite().all()
