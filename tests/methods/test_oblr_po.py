"""OBLR-PO: the baseline of least variance, by enumeration and by hand; the share of signal in Adam's moments."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from temper.columns import REWARD, TOKEN
from temper.errors import UserError
from temper.methods.objectives.oblr_po import OptimalBaseline, SignalToNoise, oblr_po, signal_share
from temper.parts.score_norms import SCORE_NORM
from temper.policy import Policy
from tests.methods.groups import of


def test_baseline_leaves_out_ones_own_sample() -> None:
    b = of([(1, 1.0), (2, 0.0), (1, 0.5), (1, None)]).put(SCORE_NORM, torch.tensor([0.5, 0.25, 0.25, 1.0, 9.0]))
    # weights 0.5, 0.5, 1 (an unjudged answer has none)
    expected = [(0 + 0.5) / 1.5, (0.5 + 0.5) / 1.5, (0.5 + 0) / 1.0]
    assert OptimalBaseline()(b, b[REWARD])[:3].tolist() == pytest.approx(expected)


def test_alone_or_without_weight_there_is_nothing_to_compare_with() -> None:
    b = of([(1, 1.0)], [(1, 0.3), (1, 0.7)]).put(SCORE_NORM, torch.tensor([0.5, 0.0, 0.0]))
    assert OptimalBaseline()(b, b[REWARD]).tolist() == pytest.approx([1.0, 0.3, 0.7])


def test_the_baseline_is_where_the_variance_is_least() -> None:
    """A softmax bandit, its expectation enumerated: variance at b* ≤ at the mean reward ≤ at 0, and over a grid."""
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    r = torch.tensor([0.2, 1.0, 0.6], dtype=torch.float64)
    score = torch.eye(3, dtype=torch.float64) - p  # ∇ log π(y) of each y
    norm = score.square().sum(1)

    def variance(baseline: float) -> float:
        g = (r - baseline)[:, None] * score
        return float((p[:, None] * g).sum(0).square().sum().neg() + (p * g.square().sum(1)).sum())

    drawn = [y for y, n in enumerate((700, 200, 100)) for _ in range(n)]  # answers as often as they are likely
    b = of([(1, float(r[y])) for y in drawn]).put(SCORE_NORM, norm[drawn])
    best = float(OptimalBaseline()(b, b[REWARD].double()).mean())
    assert best == pytest.approx(float((p * norm * r).sum() / (p * norm).sum()), abs=1e-3)
    mean = float((p * r).sum())
    assert variance(best) <= variance(mean) <= variance(0.0)
    assert all(variance(best) <= variance(x / 100) + 1e-6 for x in range(-100, 200))


@pytest.mark.parametrize("n", [2, 5, 40])
def test_share_of_signal(n: int) -> None:
    beta = 0.9
    weights = torch.tensor([(1 - beta) * beta**k for k in range(n)], dtype=torch.float64)
    weights = weights / weights.sum()
    noise = float(weights.square().sum())  # E‖m̂‖² of pure noise with E‖ĝ‖² = 1
    assert signal_share(noise, 1.0, beta, n) == pytest.approx(0.0, abs=1e-12)
    assert signal_share(1.0, 1.0, beta, n) == pytest.approx(1.0)  # every gradient the same


def stepped(gradients: list[torch.Tensor]) -> float:
    x = torch.zeros(len(gradients[0]), requires_grad=True)
    adam = torch.optim.AdamW([x], lr=0.0, betas=(0.9, 0.95))
    follow = SignalToNoise(lambda step: 1.0)
    update = SimpleNamespace(policy=SimpleNamespace(learner=SimpleNamespace(optimizer=adam)))
    for g in gradients:
        x.grad = g
        adam.step()
        follow(None, update)  # type: ignore[arg-type]
    return follow(0)


def test_the_same_gradient_keeps_the_rate_and_noise_lowers_it() -> None:
    assert stepped([torch.ones(50)] * 30) == pytest.approx(1.0, abs=1e-3)
    noise = torch.Generator().manual_seed(0)
    assert stepped([torch.randn(2000, generator=noise) for _ in range(60)]) == 0.05  # the floor


def test_its_state_and_where_it_acts() -> None:
    policy = Policy()
    made = oblr_po(policy)
    follow = made.after[0]
    follow.factor = 0.5  # type: ignore[attr-defined]
    assert policy.optimizer.rate(0) == pytest.approx(0.5 * 1e-5)
    other = SignalToNoise(lambda step: 1.0)
    other.load_state_dict(follow.state_dict())  # type: ignore[attr-defined]
    assert other(3) == 0.5
    assert oblr_po(Policy(), snr=False).after == [] and made.terms[0].level == TOKEN
    far = SimpleNamespace(policy=SimpleNamespace(learner=object()))
    with pytest.raises(UserError, match="needs a learner in one process"):
        follow(None, far)
