import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, HIDDEN, LOGP
from temper.objective import Term
from temper.parts.kl import TOKEN_REWARD
from temper.parts.values import GAE, OLD_VALUE, RETURN, VALUE, ValueHead, ValueLoss, old_values
from tests.parts.toys import VOCABULARY, SoftmaxPolicy, batch, close, column, nan, recorder, run, said, tree


def test_gae_by_hand():
    # δ = (½·0.2 − 0.5, 1 − 0.2) with γ = ½; A₂ = 0.8, A₁ = −0.4 + ½·½·0.8
    b = run(GAE(0.5, 0.5), column(batch([[2]], [[1.0]]), OLD_VALUE, [0.5, 0.2]))
    assert close(b[ADVANTAGE], [-0.2, 0.8])
    assert close(b[RETURN], [0.3, 1.0])


def test_lambda_one_is_the_return_minus_the_value():
    b = run(GAE(1.0, 1.0), column(batch([[3]], [[1.0]]), OLD_VALUE, [0.5, 0.2, -0.3]))
    assert close(b[ADVANTAGE], [0.5, 0.8, 1.3]) and close(b[RETURN], [1, 1, 1])


def test_lambda_zero_is_the_one_step_error():
    b = run(GAE(1.0, 0.0), column(batch([[3]], [[1.0]]), OLD_VALUE, [0.5, 0.2, -0.3]))
    assert close(b[ADVANTAGE], [-0.3, -0.5, 1.3])


def test_token_rewards_join_and_missing_ones_count_as_none():
    b = column(column(batch([[2]], [[1.0]]), OLD_VALUE, [0.0, 0.0]), TOKEN_REWARD, [-0.1, nan])
    assert close(run(GAE(1.0, 1.0, token_reward=TOKEN_REWARD), b)[ADVANTAGE], [0.9, 1.0])


def chain(pieces, fresh=False):
    """One trajectory of sampled turns with tool output between them (or each in a fresh context)."""
    r = recorder()
    turns, parent = [], r.add((0, 1))
    for n in pieces:
        turns.append(r.sampled(said(n), parent))
        parent = r.add((7, 8, 9), -1 if fresh else turns[-1])
    r.judge(tuple(range(len(r.turns))), reward=1.0)
    return Batch.of([r.episode()])


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("pieces", [(2, 3), (1, 1, 3), (4, 0, 1)])
def test_gae_passes_over_observations_and_context_resets(pieces, fresh):  # baseline check (d)
    values = [0.5, -0.2, 0.9, 0.1, 0.4]
    whole, cut = (run(GAE(0.9, 0.8), column(chain(p, fresh), OLD_VALUE, values)) for p in ((5,), pieces))
    assert torch.equal(whole[ADVANTAGE], cut[ADVANTAGE]) and torch.equal(whole[RETURN], cut[RETURN])


def test_trajectories_do_not_leak_into_one_another():
    b = run(GAE(1.0, 1.0), column(batch([[1, 2]], [[1.0, 5.0]]), OLD_VALUE, [0.0, 1.0, 2.0]))
    assert close(b[ADVANTAGE], [1, 4, 3])


def test_a_shared_token_has_the_mean_of_its_branches():
    b = run(GAE(1.0, 1.0), column(tree((1.0, 0.0)), OLD_VALUE, [0.0] * 6))
    assert close(b[ADVANTAGE], [0.5, 0.5, 1, 0, 0, 0])


def test_unjudged_trajectories_have_no_advantage_and_no_return():
    b = run(GAE(), column(batch([[1, 2]], [[1.0, nan]]), OLD_VALUE, [0.0, 0.0, 0.0]))
    assert b[ADVANTAGE].isnan().tolist() == b[RETURN].isnan().tolist() == [False, True, True]


def head_with(weights):
    head = ValueHead()
    head.build(len(weights))
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([weights]))
    return head


def values_batch(v, old, target):
    b = column(column(batch([[len(v)]]), OLD_VALUE, old), RETURN, target)
    return b.put(HIDDEN, torch.tensor(v)[:, None])


def test_value_loss_by_hand():
    # V = 0.9, V_old = 0.5, clip 0.2 -> 0.7. R = 0: ½·max(0.81, 0.49); R = 1: ½·max(0.01, 0.09)
    values, _ = ValueLoss(head_with([1.0]))(values_batch([0.9, 0.9], [0.5, 0.5], [0.0, 1.0]))
    assert close(values, [0.405, 0.045])
    values, _ = ValueLoss(head_with([1.0]), clip=None)(values_batch([0.9, 0.9], [0.5, 0.5], [0.0, 1.0]))
    assert close(values, [0.405, 0.005])


def test_a_new_head_values_everything_at_zero_and_can_learn():
    head = ValueHead()
    head.build(1)
    values, _ = ValueLoss(head)(values_batch([1.0, 2.0], [0.0, 0.0], [1.0, 1.0]))
    values.sum().backward()
    assert close(values, [0.5, 0.5]) and head.linear.weight.grad.item() == -3.0


def test_the_trunk_is_trained_only_where_asked():
    for trunk in (True, False):
        hidden = torch.ones(1, 1, requires_grad=True)
        b = values_batch([0.0], [0.0], [1.0]).put(HIDDEN, hidden)
        ValueLoss(head_with([2.0]), train_trunk=trunk)(b)[0].sum().backward()
        assert (hidden.grad is not None) == trunk


def test_unjudged_tokens_are_not_the_value_terms():
    term = Term("value", ValueLoss(head_with([1.0])))
    b = values_batch([0.9, 0.9], [0.5, 0.5], [0.0, nan])
    assert term.weights(b).tolist() == [1, 0]
    assert term.values(b)[0].isfinite().all()


def test_old_values_come_from_the_head():
    head = head_with([float(i) for i in range(VOCABULARY)])
    b = run(old_values(SoftmaxPolicy(), head), batch([[4]]))
    assert b[OLD_VALUE].tolist() == b.token_ids.tolist()
    assert VALUE not in b and LOGP not in b
