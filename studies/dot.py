"""DOT against GRPO with KL-Cov, where answers can be too long. python -m studies.dot --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.dot import dot

LONG = {"groups": 4, "attempts": 16, "minibatches": 1}

CHECK = Check(
    slug="dot",
    title="DOT (Dynamic Outlier Truncation)",
    claim="AIME 2024 from 30.0 with 15.5k tokens to 52.2 with 5.2k (arXiv 2601.03969).",
    setting=SETTING.replace("8 tasks × 8", "4 tasks × 16") + " α = 2; in the other arm nothing is cut.",
    arms={
        "dot": at_equal_tokens(dot, alpha=2.0, **LONG),
        "kl-cov": at_equal_tokens(dot, alpha=1e6, **LONG),
    },
    measures=[
        Measure(
            "last/completions/mean_length", "dot", "kl-cov", "tokens of an answer, last fifth of training", lower=True
        ),
        Measure("after/pass@1", "dot", "kl-cov", "pass@1 after training"),
    ],
    exact="`tests/methods/test_dot.py`: nothing can be cut with 8 answers at α = 3, an outlier is with 32; "
    "groups with a wrong answer are untouched; what is cut is judged again.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
