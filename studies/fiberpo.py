"""FiberPO against GRPO and GSPO with four optimiser steps a batch. python -m studies.fiberpo --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.fiberpo import fiberpo
from temper.recipes.grpo import grpo
from temper.recipes.gspo import gspo

CHECK = Check(
    slug="fiberpo",
    title="FiberPO",
    claim="Entropy stays and reward rises where GRPO and GSPO drift; LiveCodeBench-v6 65.6 with 7.3K tokens an answer "
    "against 64.0 with 53.6K (arXiv 2603.08239).",
    setting=SETTING + " Four optimiser steps on each batch, so that ratios leave 1.",
    arms={
        name: at_equal_tokens(recipe, minibatches=4)
        for name, recipe in (("fiberpo", fiberpo), ("grpo", grpo), ("gspo", gspo))
    },
    measures=[
        Measure("after/pass@1", "fiberpo", "grpo", "pass@1 after training"),
        Measure("after/pass@1", "fiberpo", "gspo", "pass@1 after training"),
        Measure("last/entropy", "fiberpo", "grpo", "entropy a token (nats), last fifth of training"),
    ],
    exact="`tests/methods/test_fiberpo.py`: 1 and the gradient of REINFORCE on-policy; the ratio itself inside both "
    "budgets; uniform drift trips the base gate alone, a spike the token gate alone (PPO and GSPO each miss one).",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
