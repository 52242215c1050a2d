"""Regression on z-scores against GRPO. python -m studies.reg_grpo --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.reg_grpo import reg_grpo

CHECK = Check(
    slug="reg-grpo",
    title="Reg-GRPO (DeepVideo-R1)",
    claim="8.5, 10.1 and 8.6 points above GRPO on the three levels of SEED-Bench-R1 with Qwen2.5-VL-3B (arXiv "
    "2506.07464).",
    setting=SETTING + " Four optimiser steps on each batch; without augmentation.",
    arms={
        "reg-grpo": at_equal_tokens(reg_grpo),
        "grpo": at_equal_tokens(grpo, minibatches=4),
    },
    measures=[
        Measure("after/pass@1", "reg-grpo", "grpo", "pass@1 after training"),
    ],
    exact="`tests/methods/test_reg_grpo.py`: zero for any rising affine function of the reward; 0 or 4 without "
    "gradient for two answers; at θ = π_old the direction is GRPO's, times 1/ε.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
