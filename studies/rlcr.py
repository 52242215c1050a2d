"""A reward for the stated confidence, against none. python -m studies.rlcr --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.rlcr import rlcr

CHECK = Check(
    slug="rlcr",
    title="RLCR",
    claim="As accurate as with a binary reward, ECE 0.37 to 0.03 on HotPotQA (arXiv 2507.16806).",
    setting=SETTING.replace("40,000", "60,000")
    + " Both arms begin with 40 steps of imitation: right and wrong answers, each with a confidence drawn at random.",
    arms={
        "rlcr": at_equal_tokens(rlcr, sampled=60_000),
        "without": at_equal_tokens(rlcr, sampled=60_000, brier=False),
    },
    measures=[
        Measure(
            "last/calibration/ece",
            "rlcr",
            "without",
            "expected calibration error of training answers, last fifth (confidences in tenths)",
            lower=True,
        ),
        Measure("last/calibration/auroc", "rlcr", "without", "AUROC of the stated confidence, last fifth"),
        Measure("after/pass@1", "rlcr", "without", "pass@1 after training"),
    ],
    exact="`tests/methods/test_rlcr.py`: the expected reward is largest at q = p and grows with p; "
    "ECE, Brier score and AUROC by hand.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
