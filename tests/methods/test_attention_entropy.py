"""Attention entropy: ranks, weights that conserve the total, subsets that are right on average."""

from __future__ import annotations

import asyncio

import pytest
import torch

from temper.methods.objectives.attention_entropy import WEIGHT, SoftWeights, Subset, attention_entropy, rank_z
from temper.parts.attention import ATTENTION_ENTROPY
from temper.parts.schedules import Linear
from tests.methods.groups import of


def test_ranks_by_hand() -> None:
    assert rank_z(torch.tensor([0.9, 0.1, 0.5])).tolist() == pytest.approx([1.5**0.5, -(1.5**0.5), 0.0])
    tied = rank_z(torch.tensor([0.1, 0.1, 0.5, 0.9]))
    assert float(tied.mean()) == pytest.approx(0.0, abs=1e-6) and float(tied.square().mean()) == pytest.approx(1.0)
    assert rank_z(torch.full((4,), 0.3)).tolist() == [0.0] * 4


def weighed(stage: SoftWeights | Subset, entropy: list[float]) -> list[float]:
    b = of([(len(entropy), 1.0)]).put(ATTENTION_ENTROPY, torch.tensor(entropy))
    return asyncio.run(stage(b))[WEIGHT].tolist()


def test_anchors_first_and_explorers_later_at_the_same_total() -> None:
    stage = SoftWeights(Linear(-0.4, 0.4, 2))
    z = 1.5**0.5
    first, middle, last = (weighed(stage, [0.1, 0.5, 0.9]) for _ in range(3))
    assert first == pytest.approx([1 + 0.4 * z, 1.0, 1 - 0.4 * z]) and middle == pytest.approx([1.0] * 3)
    assert last == pytest.approx(first[::-1])
    assert all(sum(w) == pytest.approx(3.0) for w in (first, middle, last))
    assert sum(weighed(SoftWeights(Linear(-3.0, -3.0, 1)), [0.1, 0.2, 0.9])) == pytest.approx(3.0)  # clamped at 0


def test_a_resumed_run_goes_on_in_the_schedule() -> None:
    one, two = SoftWeights(Linear(-0.4, 0.4, 2)), SoftWeights(Linear(-0.4, 0.4, 2))
    weighed(one, [0.1, 0.9])
    two.load_state_dict(one.state_dict())
    assert weighed(one, [0.1, 0.9]) == weighed(two, [0.1, 0.9])


@pytest.mark.parametrize(("keep", "kept"), [("low", [5, 0, 0, 0, 0]), ("high", [0, 0, 0, 0, 5])])
def test_subsets(keep: str, kept: list[float]) -> None:
    assert weighed(Subset(keep), [0.1, 0.2, 0.3, 0.4, 0.5]) == kept  # type: ignore[arg-type]


def test_random_subsets_are_the_full_gradient_on_average() -> None:
    stage = Subset("random", 0.2, seed=3)
    total = torch.tensor([weighed(stage, [0.5] * 10) for _ in range(2000)]).mean(0)
    assert torch.allclose(total, torch.ones(10), atol=0.15)
    assert weighed(Subset("random", 0.2, 3), [0.5] * 10) == weighed(Subset("random", 0.2, 3), [0.5] * 10)


def test_the_forward_pass_is_a_feature_before_the_weights() -> None:
    stages = attention_entropy(None).on_batch
    assert getattr(stages[0], "kind", "") == "features" and isinstance(stages[1], SoftWeights)
    assert isinstance(attention_entropy(None, keep="low").on_batch[1], Subset)
