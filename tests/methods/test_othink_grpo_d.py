"""OThink-MR1: the weight at every step, whatever the checkpoint; and what is refused."""

from __future__ import annotations

import pytest

from temper.errors import UserError
from temper.methods.objectives.othink_grpo_d import othink_grpo_d, rising
from temper.objective import seq_mean_token_mean
from temper.policy import Policy


@pytest.mark.parametrize(
    ("shape", "values"),
    [("linear", [0.0, 0.01, 0.02, 0.04, 0.04]), ("cosine", [0.0, 0.04 * 0.1464466, 0.02, 0.04, 0.04]),
     ("step", [0.0, 0.0, 0.0, 0.04, 0.04])],
)  # fmt: skip
def test_weight_by_step(shape: str, values: list[float]) -> None:
    beta = rising(0.0, 0.04, 8, shape)  # type: ignore[arg-type]
    assert [beta(s) for s in (0, 2, 4, 8, 100)] == pytest.approx(values)


def test_a_negative_weight_is_refused() -> None:
    assert rising(0.1, 0.1, 5)(3) == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"must not be negative, got -0\.1"):
        rising(-0.1, 0.1, 5)


def test_the_kl_term_reads_the_optimiser_step_which_a_checkpoint_holds() -> None:
    made = othink_grpo_d(Policy(), reference=Policy(name="reference", trainable=False), beta=rising(0.0, 1.0, 10))
    kl = made.terms[1]
    assert kl.name == "kl" and [kl.coefficient(s) for s in (0, 5, 20)] == pytest.approx([0.0, 0.5, 1.0])
    assert kl.per is seq_mean_token_mean
    assert len(othink_grpo_d(Policy()).terms) == 1  # without a reference there is nothing to be pulled to
