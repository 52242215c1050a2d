"""Attention entropy against GRPO at equal sampled tokens. python -m studies.attention_entropy --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.attention_entropy import attention_entropy
from temper.recipes.grpo import grpo

CHECK = Check(
    slug="attention-entropy",
    title="Attention entropy",
    claim="A random fifth of the tokens keeps most of the performance; training on tokens of spread attention "
    "alone collapses; soft weights lift Qwen3-8B-Base from 34.39 to 37.40 (arXiv 2605.07660).",
    setting=SETTING,
    arms={
        "soft": at_equal_tokens(attention_entropy),
        "grpo": at_equal_tokens(grpo, per="token"),
        "random fifth": at_equal_tokens(attention_entropy, keep="random"),
        "anchors": at_equal_tokens(attention_entropy, keep="low"),
        "explorers": at_equal_tokens(attention_entropy, keep="high"),
    },
    measures=[
        Measure("after/pass@1", "soft", "grpo", "pass@1 after training"),
        Measure(
            "after/pass@1",
            "anchors",
            "explorers",
            "pass@1 after training, on the fifth with the most concentrated attention against the most spread",
        ),
    ],
    exact="`tests/parts/test_attention.py`: uniform attention has entropy 1, a single place 0, on every layout;"
    " `tests/methods/test_attention_entropy.py`: weights keep the total, random subsets give the full "
    "gradient on average.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
