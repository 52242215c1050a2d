"""Weights that jump along their way between two phases of RL. python -m studies.next_extrapolation --seeds 5"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.check import Arm, Check, Measure, main
from studies.versus import SETTING, at_equal_tokens, kept
from temper.recipes.next_extrapolation import next_extrapolation

PHASES: dict[str, Any] = {"trajectory": 24, "every": 2, "horizon": 6}


def jumping(**options: Any) -> Arm:
    """An arm with what the jump reports beside the figures of the second phase."""
    arm = at_equal_tokens(next_extrapolation, sampled=16_000, **PHASES, **options)

    def run(seed: int, folder: Path) -> dict[str, float]:
        figures = arm(seed, folder)
        first = kept(folder / "2-next-extrapolation")[0]
        return figures | {k: first[k] for k in first if k.startswith("jump/")}

    return run


CHECK = Check(
    slug="next-extrapolation",
    title="NExt (extrapolation)",
    claim="About 37.5 % less compute to the same accuracy; updates are dominated by one direction, under LoRA more "
    "than with all weights (arXiv 2604.11446).",
    setting=SETTING.replace("and end after 40,000 sampled tokens", "")
    + " 24 steps of GRPO, weights kept every 2 of them; the jump, as long as 6 steps times c from ½ to 4, chosen on 32 "
    "tasks of validation with 4 attempts each (not counted); then GRPO for 16,000 sampled tokens. Without a jump c is "
    "0 and all else the same, the fresh optimiser included. LoRA: rank 8 in the first phase.",
    arms={
        "jump": jumping(),
        "no jump": jumping(coefficients=(0.0,)),
        "lora jump": jumping(lora=8),
    },
    measures=[
        Measure("before/pass@1", "jump", "no jump", "pass@1 after the jump, before the second phase"),
        Measure("after/pass@1", "jump", "no jump", "pass@1 after the second phase"),
        Measure("jump/rank_one_share", "lora jump", "jump", "share of the change's energy in its first direction"),
    ],
    exact="`tests/methods/test_next_extrapolation.py`: a way W_0 + a√t u v' is continued with cosine above 0.99 and a "
    "tenth of error at most, and better than straight on; the sign of a direction does not depend on the "
    "decomposition; adapters are merged; validation tasks are nobody else's.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
