"""Preplan and anchor against GRPO at equal sampled tokens. python -m studies.preplan_anchor --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.preplan_anchor import preplan_anchor

CHECK = Check(
    slug="preplan-anchor",
    title="Preplan and anchor",
    claim="Countdown 52.6 to 63.1; random tokens gain nothing over GRPO (arXiv 2510.13554).",
    setting=SETTING,
    arms={
        "coupled": at_equal_tokens(preplan_anchor),
        "grpo": at_equal_tokens(preplan_anchor, gain=0.0),
    },
    measures=[
        Measure("after/pass@1", "coupled", "grpo", "pass@1 after training"),
    ],
    exact="`tests/parts/test_attention.py`: distance peaks at the head of a chunk and influence at a planted "
    "anchor; `tests/methods/test_preplan_anchor.py`: negative rows keep γ = 1, no gain is GRPO to the "
    "bit.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
