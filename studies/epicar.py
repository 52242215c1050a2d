"""EpiCaR against STaR, and against verdicts on right answers only. python -m studies.epicar --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.epicar import epicar

ROUNDS = {"sampled": 60_000, "groups": 16, "attempts": 10, "minibatches": 8, "lr": 5e-4}

CHECK = Check(
    slug="epicar",
    title="EpiCaR",
    claim="Pareto-better than STaR in accuracy and calibration for models of 3B and more; ten votes weighted by "
    "confidence match 30 of STaR (arXiv 2601.06786).",
    setting=SETTING.replace("8 tasks × 8", "16 tasks × 10").replace("40,000", "60,000")
    + " A step is a round with 8 optimiser steps at learning rate 5e-4. Confidence is p(yes)/(p(yes) + p(no)) on the "
    "samples of a round before they are learned from. STaR is the same without verdicts. After a pilot with "
    "seed 100 every target token weighs the same: where every example did, answers became short guesses.",
    arms={
        "epicar": at_equal_tokens(epicar, **ROUNDS),
        "star": at_equal_tokens(epicar, **ROUNDS, verdicts="none"),
        "only yes": at_equal_tokens(epicar, **ROUNDS, verdicts="yes"),
    },
    measures=[
        Measure("last/calibration/ece", "epicar", "star", "expected calibration error, last fifth", lower=True),
        Measure("last/calibration/auroc", "epicar", "star", "AUROC of the confidence, last fifth"),
        Measure("last/calibration/ece", "epicar", "only yes", "the same error without examples of no", lower=True),
        Measure("last/votes/weighted", "epicar", "star", "ten votes weighted by confidence, last fifth"),
        Measure("after/pass@1", "epicar", "star", "pass@1 after training"),
    ],
    exact="`tests/methods/test_epicar.py`: labels match outcomes, unjudged answers are not asked about; only the "
    "verdict is a target; spellings are summed by hand; as many verdicts of either kind; a cue is no target.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
