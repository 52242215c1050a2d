"""Objectives weighted by how they move against the sum of rewards. python -m studies.recap --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.recap import recap

CHECK = Check(
    slug="recap",
    title="RECAP",
    claim="Trained on reasoning alone LISA falls from 65.1 to 57.6, with RECAP it is 67.2; the format's weight "
    "falls as it saturates (arXiv 2510.21978).",
    setting=SETTING + " Two objectives: a right answer, and a form that the model already has.",
    arms={
        "recap": at_equal_tokens(recap),
        "even weights": at_equal_tokens(recap, window=10_000),
    },
    measures=[
        Measure("after/pass@1", "recap", "even weights", "pass@1 (right answers) after training"),
        Measure(
            "last/recap/weight/think_format",
            "recap",
            "even weights",
            "weight of the format's reward, last fifth of training",
            lower=True,
        ),
    ],
    exact="`tests/methods/test_recap.py`: weights sum to K; a constant objective has the lowest; what is "
    "learned loses weight; steps without data are none.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
