"""HPT (Hybrid Post-Training) against Dr. GRPO where attempts hardly ever succeed. python -m studies.hpt --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import HARD, HARD_SETTING, at_equal_tokens
from temper.recipes.dr_grpo import dr_grpo
from temper.recipes.hpt import hpt

CHECK = Check(
    slug="hpt",
    title="HPT (Hybrid Post-Training)",
    claim="7 points above the best baseline on AIME 2024 with Qwen2.5-Math-7B; pass@k is kept (arXiv 2509.04419).",
    setting=HARD_SETTING,
    arms={
        "hpt": at_equal_tokens(hpt, data=HARD),
        "dr-grpo": at_equal_tokens(dr_grpo, data=HARD),
    },
    measures=[
        Measure("after/pass@1", "hpt", "dr-grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_hpt.py`: P = gate and P = gate + 1 differ in the loss; imitation, REINFORCE and PPO "
    "follow from one estimator by its denominator.",
    note="The tasks are nearly out of reach: even with worked answers pass@1 stays at two in a hundred after "
    "so few tokens. What holds is the order of the two, not a useful level.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
