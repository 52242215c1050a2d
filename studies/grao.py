"""GRAO against GRPO where attempts hardly ever succeed. python -m studies.grao --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import HARD, HARD_SETTING, at_equal_tokens
from temper.recipes.grao import grao
from temper.recipes.grpo import grpo

CHECK = Check(
    slug="grao",
    title="GRAO",
    claim="57.70, 17.65, 7.95 and 5.18 % (relative) above SFT, DPO, PPO and GRPO; half the steps to the peak "
    "(arXiv 2508.07750).",
    setting=HARD_SETTING,
    arms={
        "grao": at_equal_tokens(grao, data=HARD, attempts=7),
        "grpo": at_equal_tokens(grpo, data=HARD),
    },
    measures=[
        Measure("after/pass@1", "grao", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_grao.py`: in a complete group the alignment part is λ times the exploration "
    "gradient; where all attempts fail the reference still has a gradient.",
    note="The tasks are nearly out of reach: pass@1 stays below three in a hundred after so few tokens. What "
    "holds is the order of the two, not a useful level.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
