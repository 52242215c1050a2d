import pytest
import torch

from temper.objective import Update
from temper.parts.reference import RefreshReference
from tests.parts.toys import SoftmaxPolicy, batch


def steps(hook, policy, n):
    for _ in range(n):
        policy.theta = policy.theta + 1
        hook(batch([[1]]), Update(policy, []))


def test_the_reference_follows_every_n_steps():
    policy, reference = SoftmaxPolicy(0), SoftmaxPolicy(1)
    policy.theta, reference.theta = torch.zeros(2), torch.zeros(2)
    hook = RefreshReference(reference, alpha=0.6, every=2)
    steps(hook, policy, 1)
    assert reference.theta.tolist() == [0, 0]
    steps(hook, policy, 1)  # 0.6·2
    assert reference.theta.tolist() == pytest.approx([1.2, 1.2])
    steps(hook, policy, 2)  # 0.6·4 + 0.4·1.2
    assert reference.theta.tolist() == pytest.approx([2.88, 2.88])


def test_it_resumes_between_two_refreshes():
    policy, reference = SoftmaxPolicy(0), SoftmaxPolicy(1)
    before = reference.theta
    hook = RefreshReference(reference, 0.5, 4)
    steps(hook, policy, 3)
    resumed = RefreshReference(reference, 0.5, 4)
    resumed.load_state_dict(hook.state_dict())
    steps(resumed, policy, 1)
    assert torch.equal(reference.theta, 0.5 * policy.theta + 0.5 * before)


def test_a_reference_without_weights_is_refused():
    policy, reference = SoftmaxPolicy(0), SoftmaxPolicy(1)
    reference.weights = dict
    with pytest.raises(ValueError, match="cannot follow"):
        steps(RefreshReference(reference, every=1), policy, 1)
