"""ADORA against GRPO at equal sampled tokens. python -m studies.adora --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.adora import adora
from temper.recipes.grpo import grpo

CHECK = Check(
    slug="adora",
    title="ADORA",
    claim="40 points on AMC after 100 steps where GRPO has 35; answers lengthen sooner (github.com/ShadeCloak/ADORA).",
    setting=SETTING,
    arms={"adora": at_equal_tokens(adora), "grpo": at_equal_tokens(grpo)},
    measures=[
        Measure("after/pass@1", "adora", "grpo", "pass@1 after training"),
        Measure("last/completions/mean_length", "adora", "grpo", "tokens of an answer, last fifth of training"),
    ],
    exact="`tests/methods/test_adora.py`: nine groups in both variants; a factor of 1 is GRPO to the bit.",
    note="Answers of these tasks need about fifteen tokens whoever trains; longer thinking has nothing to "
    "gain, so the factor has nothing to reward.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
