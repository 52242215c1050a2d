"""Light-IF: which tokens are imitated, and the entropy weights by hand."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP
from temper.methods.objectives.light_if import BONUS, HARD, EntropyWeights, HardAndSure, entropy_sft, light_if
from temper.parts.logprobs import BEHAVIOUR, OLD, OLD_ENTROPY
from tests.methods.groups import of


@pytest.mark.parametrize(("n", "kept"), [(10, 2), (11, 3), (1, 1)])
def test_exactly_a_fifth_of_the_batch(n: int, kept: int) -> None:
    b = of([(n, 1.0)]).put(OLD, -torch.rand(n)).put(OLD_ENTROPY, torch.rand(n))
    assert int(asyncio.run(HardAndSure()(b))[HARD].sum()) == kept == math.ceil(0.2 * n)


def test_hard_tokens_of_which_the_model_is_sure() -> None:
    b = of([(3, 1.0), (2, 1.0)])
    b = b.put(OLD, torch.tensor([-3.0, -3.0, -0.1, -0.1, -2.0])).put(
        OLD_ENTROPY, torch.tensor([2.5, 0.1, 0.1, 2.0, 0.5])
    )
    marked = asyncio.run(HardAndSure(0.4)(b))[HARD]
    assert marked.tolist() == [False, True, False, False, True]  # over the batch, not in each answer
    term = entropy_sft(None).terms[0]
    b = b.put(HARD, marked)
    assert term.weights(b).tolist() == [0, 0.5, 0, 0, 0.5]
    logp = torch.full((5,), -1.0, requires_grad=True)
    (term.weights(b) * term.values(b.put(LOGP, logp))[0]).sum().backward()
    assert logp.grad.tolist() == [0, -0.5, 0, 0, -0.5]


def weights(a: list[float], logp: list[float], b: Batch, **how: float) -> list[float]:
    b = b.put(ADVANTAGE, torch.tensor(a)).put(BEHAVIOUR, torch.tensor(logp))
    return asyncio.run(EntropyWeights(**how)(b))[BONUS].tolist()


def test_where_credit_and_certainty_meet() -> None:
    a, logp = [1.0, 1.0, -1.0, -1.0], [-0.5, -1.5, -0.5, -1.5]
    first = 10 * math.exp(0.5) / (math.exp(0.5) + math.exp(-0.5))
    got = weights(a, logp, of([(2, 1.0), (2, 0.0)]))
    assert got == pytest.approx([5.0, 10 - first, 10 - first, 5.0]) and first > 5
    assert weights(a, logp, of([(2, 1.0), (2, 0.0)]), most=9.0) == pytest.approx([first, 10 - first, 10 - first, first])


def test_equal_rewards_share_the_bonus_evenly() -> None:
    got = weights([0.0] * 5, [-1.0, -2.0, -0.1, -0.2, -3.0], of([(4, 1.0), (1, 1.0)]))
    assert got == pytest.approx([2.5] * 4 + [5.0])  # 10/T, at most 5; a row's sum is at most 10


def test_unjudged_answers_have_no_bonus() -> None:
    assert weights([1.0, -1.0, math.nan], [-1.0, -2.0, -1.0], of([(1, 1.0), (1, 0.0), (1, None)]))[2] == 0.0


def test_the_bonus_is_a_term_of_its_own() -> None:
    made = light_if(None)
    assert [t.name for t in made.terms] == ["policy", "entropy"] and made.terms[1].reads == (BONUS,)
