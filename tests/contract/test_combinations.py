"""Parts compose: every drawn combination runs, resumes and splits exactly, or is refused in a sentence that is true."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from temper.testing import check_run
from tests.contract.combinations import PAGE, N, build, choice, page, refusal

REFUSED = {
    "reads advantage": "the loss needs a credit that writes advantage",
    "reads regression_target": "the loss needs the soft value's target",
    "which nothing reads": "a part without effect",
    "two terms are called": "two penalties towards the same reference",
}
REFUSALS = {n: why for n in range(N) if (why := refusal(choice(n)))}


@pytest.mark.parametrize("n", [n for n in range(N) if n not in REFUSALS], ids=lambda n: f"{n}: {choice(n)}")
def test_a_combination_trains_resumes_and_splits_exactly(n: int, exact_model: str, tmp_path: Path) -> None:
    check_run(partial(build, choice(n), exact_model), tmp_path)


@pytest.mark.parametrize("n", list(REFUSALS))
def test_a_refusal_is_one_true_sentence(n: int) -> None:
    why = REFUSALS[n]
    assert "\n" not in why and any(reason in why for reason in REFUSED), why


def test_most_are_not_refused() -> None:
    assert N - len(REFUSALS) >= 200


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(N), "run python -m tests.contract.combinations"
