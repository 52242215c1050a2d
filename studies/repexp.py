"""RepExp against GRPO at equal sampled tokens. python -m studies.repexp --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SUMS, SUMS_SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.repexp import repexp

MANY = {"data": SUMS, "eval_tasks": 70, "eval_attempts": 16}

CHECK = Check(
    slug="repexp",
    title="RepExp",
    claim="pass@80 on AIME 2024 is what GRPO has at 256 (arXiv 2510.11686).",
    setting=SUMS_SETTING.replace("140 held-out sums × 4", "70 held-out sums × 16")
    + " Bonus 0.1, own sample left out. On the quickstart suite, tried first, either arm has a right answer to 99 % of "
    "the questions in 16 attempts.",
    arms={
        "repexp": at_equal_tokens(repexp, coef=0.1, leave_one_out=True, **MANY),
        "grpo": at_equal_tokens(grpo, **MANY),
    },
    measures=[
        Measure("after/any", "repexp", "grpo", "tasks with a right answer among 16"),
        Measure("after/pass@1", "repexp", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_repexp.py`: bonuses sum to the trace Σ s/(s + λ), n duplicates have 1/n each, "
    "orthogonal rows 1; with ‖h‖² ≫ λ all are 1 − 1/G, hence the division by the mean norm.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
