"""Prompts that grow against all lengths at once. python -m studies.qwenlong_l1 --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.qwenlong_l1 import qwenlong_l1

LONG = "rg:chain_sum?min_terms=2&max_terms=6&min_digits=1&max_digits=1&size=3000"
CAPS = (71, 79, 400)

CHECK = Check(
    slug="qwenlong-l1",
    title="QwenLong-L1",
    claim="Phased context is better than a single stage, retrospective sampling than none (arXiv 2505.17667).",
    setting=SETTING.replace("its quickstart suite", "sums of two to six one-digit numbers")
    + " Caps of 71, 79 and 400 characters.",
    arms={
        "phases": at_equal_tokens(qwenlong_l1, caps=CAPS, phase=12, data=LONG),
        "at once": at_equal_tokens(qwenlong_l1, caps=CAPS[-1:], data=LONG),
    },
    measures=[
        Measure("after/pass@1", "phases", "at once", "pass@1 after training"),
    ],
    exact="`tests/methods/test_qwenlong_l1.py`: prompts beyond a phase's cap never appear; the retrospective "
    "share and its weights; the judge's failure leaves the rule's verdict.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
