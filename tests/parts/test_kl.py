import asyncio

import pytest
import torch

from temper.columns import LOGP, REWARD
from temper.objective import Term
from temper.parts.kl import (
    KL,
    PENALISED,
    TOKEN_REWARD,
    Adaptive,
    KLReward,
    SequencePenalty,
    k1,
    k2,
    k3,
    k3_plus,
    towards,
)
from temper.parts.logprobs import REFERENCE
from temper.parts.schedules import Linear
from tests.parts.toys import BEHAVIOUR, SoftmaxPolicy, batch, close, column, nan, run


def logits(seed, n=6):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(p, q):
    """KL(p‖q) of log-probs, by enumeration."""
    return (p.exp() * (p - q)).sum()


def gradient_of(function):
    theta = logits(0).requires_grad_()
    function(theta.log_softmax(0)).backward()
    return theta.grad


REF = logits(1).log_softmax(0)
FORWARD = gradient_of(lambda p: exact(p, REF))  # ∇KL(π_θ‖π_ref)
BACKWARD = gradient_of(lambda p: exact(REF, p))  # ∇KL(π_ref‖π_θ)


def as_loss(estimator):
    """The expected gradient of a sampled token's estimate: the sampling weight is not differentiated."""
    return gradient_of(lambda p: (p.detach().exp() * estimator(p, REF)).sum())


def test_the_two_directions_differ():
    assert (FORWARD - BACKWARD).abs().max() > 0.05


@pytest.mark.parametrize(
    "estimator, wanted", [(k1, torch.zeros(6).double()), (k2, FORWARD), (k3, BACKWARD), (k3_plus, FORWARD)]
)
def test_expected_gradient_as_a_loss(estimator, wanted):  # baseline check (c)
    assert torch.allclose(as_loss(estimator), wanted, atol=1e-12, rtol=0)


def test_k1_in_the_reward_has_the_right_direction():  # baseline check (c)
    g = gradient_of(lambda p: (p.detach().exp() * k1(p, REF).detach() * p).sum())
    assert torch.allclose(g, FORWARD, atol=1e-12, rtol=0)


def test_ratio_times_k3_has_the_right_direction_off_policy():
    old = logits(2).log_softmax(0)
    b = column(column(batch([[6]]), BEHAVIOUR, old.tolist()), REFERENCE, REF.tolist())
    g = gradient_of(lambda p: (old.exp() * KL(k3, old=BEHAVIOUR)(b.put(LOGP, p))[0]).sum())
    assert torch.allclose(g, FORWARD, atol=1e-12, rtol=0)


@pytest.mark.parametrize("estimator", [k1, k3, k3_plus])
def test_expected_value_is_the_kl(estimator):
    p = logits(0).log_softmax(0)
    assert torch.allclose((p.exp() * estimator(p, REF)).sum(), exact(p, REF), atol=1e-12)


def test_values_by_hand():
    logp, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])  # d = −1, 1
    assert close(k1(logp, ref), [1, -1])
    assert close(k2(logp, ref), [0.5, 0.5])
    assert close(k3(logp, ref), [0.36787944, 0.71828183])


def test_far_apart_stays_finite():
    logp, ref = torch.tensor([-100.0, 0.0]), torch.tensor([0.0, -100.0])
    assert close(k3(logp, ref), [10, 10]) and close(k1(logp, ref), [-20, 20])


def test_penalty_in_the_reward_by_hand():
    b = column(batch([[2, 1]], [[1.0, 0.0]]), BEHAVIOUR, [-1, -1, -1])
    b = run(KLReward(0.1), column(b, REFERENCE, [-2, -4, -0.5]))  # k1 = 1, 3, −½
    assert close(b[TOKEN_REWARD], [-0.1, -0.3, 0.05])
    assert close(run(SequencePenalty(), b)[PENALISED], [0.6, 0.05])
    assert close(b[REWARD], [1, 0])


def test_demonstrations_have_no_penalty_and_no_penalised_reward():
    b = column(batch([[1, 1]], [[1.0, 0.0]]), BEHAVIOUR, [nan, -1])
    b = run(SequencePenalty(), run(KLReward(0.1), column(b, REFERENCE, [-2, -2])))
    assert close(b[PENALISED], [nan, -0.1])


def test_adaptive_controller_by_hand():
    c = Adaptive(value=0.1, target=6, horizon=100)
    c.observe(12, n=10)  # error 1 is cut to 0.2: 0.1·(1 + 0.2·10/100)
    assert c(0) == pytest.approx(0.102)
    c.observe(5.4, n=10)  # error −0.1
    assert c(0) == pytest.approx(0.102 * 0.99)


def penalised_steps(stage, n):
    b = column(batch([[2, 2]]), BEHAVIOUR, [-1] * 4)
    b = column(b, REFERENCE, [-3] * 4)  # Σ k1 = 4 a trajectory
    return [asyncio.run(stage(b))[TOKEN_REWARD][0].item() for _ in range(n)]


def test_controller_uses_its_coefficient_before_it_learns():
    values = penalised_steps(KLReward(Adaptive(0.1, target=2, horizon=100)), 3)
    assert values == pytest.approx([-0.2, -0.2 * 1.004, -0.2 * 1.004**2])


@pytest.mark.parametrize("coef", [lambda: Adaptive(0.1, 2, 100), lambda: Linear(1.0, 0.0, 4)])
def test_controllers_and_schedules_resume(coef):
    straight = penalised_steps(KLReward(coef()), 5)
    first = KLReward(coef())
    head = penalised_steps(first, 2)
    second = KLReward(coef())
    second.load_state_dict(first.state_dict())
    assert head + penalised_steps(second, 3) == straight
    assert len(set(straight)) > 3


def test_no_reference_no_kl():
    assert towards(None, 0.1) == ([], [])


def test_a_kl_term_pulls_the_policy_to_its_reference():
    policy, reference = SoftmaxPolicy(0), SoftmaxPolicy(1)
    stages, terms = towards(reference, 1.0, KL(k2))
    p = policy.theta.log_softmax(0)
    b = run(stages[0], batch([[5]]))
    assert b.token_ids.sort().values.tolist() == [0, 1, 2, 3, 4]
    weighted = Term("kl", terms[0].loss, per=lambda b, live: p.exp()[b.token_ids])  # the exact expectation
    g = policy.gradient(b, [weighted])
    theta = policy.theta.clone().requires_grad_()
    exact(theta.log_softmax(0), reference.theta.log_softmax(0)).backward()
    assert torch.allclose(g, theta.grad, atol=1e-12)
