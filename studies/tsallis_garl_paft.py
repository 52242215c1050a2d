"""Commitment to supervision from a cold start. python -m studies.tsallis_garl_paft --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import HARD, HARD_SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.tsallis_garl_paft import tsallis_garl_paft

CHECK = Check(
    slug="tsallis-garl-paft",
    title="Tsallis GARL and PAFT",
    claim="From a cold start on FinQA pass@1 is 30.5 with q = 0.75, and 0 with GRPO and q ≤ 0.5 (arXiv 2604.25907).",
    setting=HARD_SETTING,
    arms={
        "q = 0.75": at_equal_tokens(tsallis_garl_paft, data=HARD),
        "q = 0": at_equal_tokens(tsallis_garl_paft, q=0.0, data=HARD),
        "paft": at_equal_tokens(tsallis_garl_paft, form="paft", data=HARD),
        "grpo": at_equal_tokens(grpo, data=HARD),
    },
    measures=[
        Measure("after/pass@1", "q = 0.75", "grpo", "pass@1 after training"),
        Measure("after/pass@1", "q = 0.75", "q = 0", "pass@1 after training"),
        Measure("after/pass@1", "paft", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_tsallis_garl_paft.py`: over its draw PAFT is GARL without the baseline, to "
    "1e-12; from p = 0.001 escape takes steps in proportion to 1/p at q = 0 and to log 1/p at q = 1.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
