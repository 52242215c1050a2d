"""A rising KL weight against none and against a constant one. python -m studies.othink_grpo_d --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.othink_grpo_d import othink_grpo_d

HIGH = 0.3

CHECK = Check(
    slug="othink-grpo-d",
    title="OThink-MR1 (GRPO-D)",
    claim="Qwen2-VL-2B: 13.59 % (relative) above GRPO on the same task (arXiv 2503.16081). The sheet's check: a ramp "
    "reaches the reward of no penalty with less KL in the end, while a constant high weight stalls.",
    setting=SETTING
    + f" The weight rises from 0 to {HIGH} within 30 optimiser steps; arms with {HIGH} and 0 throughout.",
    arms={
        "ramp": at_equal_tokens(othink_grpo_d, beta_high=HIGH, ramp=30),
        "constant": at_equal_tokens(grpo, beta=HIGH),
        "none": at_equal_tokens(othink_grpo_d, beta_high=0.0),
    },
    measures=[
        Measure("after/pass@1", "ramp", "constant", "pass@1 after training"),
        Measure("last/kl", "ramp", "none", "KL to the start a token (k3, nats), last fifth", lower=True),
        Measure("after/pass@1", "ramp", "none", "pass@1 after training, above no penalty at all"),
    ],
    exact="`tests/methods/test_othink_grpo_d.py`: the weight at every step; the checkpoint's step gives it.",
    note="In so short a run the policy does not move far enough from its start for any of the three weights to matter.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
