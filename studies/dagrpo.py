"""DaGRPO against GRPO where attempts hardly ever succeed. python -m studies.dagrpo --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import HARD, HARD_SETTING, at_equal_tokens
from temper.recipes.dagrpo import dagrpo
from temper.recipes.grpo import grpo

CHECK = Check(
    slug="dagrpo",
    title="DaGRPO",
    claim="4.7 points above GRPO on mathematics on average; no explosions of the gradient's norm (arXiv 2512.06337).",
    setting=HARD_SETTING,
    arms={
        "dagrpo": at_equal_tokens(dagrpo, data=HARD, attempts=7),
        "without anchors": at_equal_tokens(dagrpo, data=HARD, anchors=False),
        "grpo": at_equal_tokens(grpo, data=HARD),
    },
    measures=[
        Measure("after/pass@1", "dagrpo", "grpo", "pass@1 after training"),
        Measure("after/pass@1", "without anchors", "grpo", "pass@1 after training, the mask alone"),
    ],
    exact="`tests/methods/test_dagrpo.py`: two answers that differ in a token and in their verdict push "
    "nothing; without the mask they push that token.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
