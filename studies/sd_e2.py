"""Different strategies in one answer, rewarded, against right answers alone. python -m studies.sd_e2 --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.sd_e2 import sd_e2

PLAIN = {"diversity": 0.0, "form": 0.0, "efficiency": 0.0}

CHECK = Check(
    slug="sd-e2",
    title="SD-E²",
    claim="Qwen2.5-3B-Instruct 82.03 on GSM8K, 5.2 and 1.5 above two rewards with GRPO, with 9.8 strategies to a "
    "question (arXiv 2601.17982).",
    setting=SETTING + " First, 40 steps of imitation teach it to think one to three times, a line each, long, short or "
    "with a slip. Strategies are compared by hashed n-grams (τ = 0.8). Against: the same z-score of right answers "
    "alone.",
    arms={
        "sd-e2": at_equal_tokens(sd_e2),
        "correct only": at_equal_tokens(sd_e2, **PLAIN),
    },
    measures=[
        Measure("last/strategies/distinct", "sd-e2", "correct only", "distinct strategies, last fifth of training"),
        Measure("after/pass@1", "sd-e2", "correct only", "pass@1 after training"),
    ],
    exact="`tests/methods/test_sd_e2.py`: copies and longer answers without a new cluster add nothing; orthogonal "
    "strategies have the whole reward; scores do not change with a part's scale, and a constant part has none.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
