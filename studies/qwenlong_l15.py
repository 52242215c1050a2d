"""Scales by source and controlled negatives against GRPO. python -m studies.qwenlong_l15 --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.qwenlong_l15 import qwenlong_l15

CHECK = Check(
    slug="qwenlong-l15",
    title="QwenLong-L1.5",
    claim="With a 4B model GRPO 56.07, with the source's σ 58.62, with AEPO 59.36 (arXiv 2512.12967).",
    setting=SETTING + " Thresholds 0.1 and 0.25 nats.",
    arms={
        "whole": at_equal_tokens(qwenlong_l15, low=0.1, high=0.25, attempts=8),
        "source σ": at_equal_tokens(qwenlong_l15, high=99.0, attempts=8),
        "grpo": at_equal_tokens(grpo, per="token"),
    },
    measures=[
        Measure("after/pass@1", "whole", "grpo", "pass@1 after training"),
        Measure("after/pass@1", "source σ", "grpo", "pass@1 after training, without the gate"),
    ],
    exact="`tests/methods/test_qwenlong_l15.py`: sources with rewards of 1 and of 0.1 have equal advantages; "
    "the gate has hysteresis; shares of sources are exact.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
