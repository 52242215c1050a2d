"""Trace-back labels and sample weights of VERIRL, each against without. python -m studies.verirl --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SETTING, at_equal_tokens
from temper.recipes.verirl import verirl

SHORT = {"turns": 2}

CHECK = Check(
    slug="verirl",
    title="VERIRL",
    claim="best pass@k of systems with 7B weights on VerilogEval and RTLLM; trace-back labels and sample weights each "
    "add to the pass rate (arXiv 2508.18462).",
    setting=SETTING + " No Verilog: answers to the suite's tasks, which are right or not, with one revision after the "
    "result (pass@1 is after it); one phase of RL. AUROC: of the reward model before it learns from a batch, for "
    "attempts that are right or will be after a revision.",
    arms={
        "verirl": at_equal_tokens(verirl, **SHORT),
        "right and wrong": at_equal_tokens(verirl, **SHORT, labels="binary"),
        "unweighted": at_equal_tokens(verirl, **SHORT, balance=False),
    },
    measures=[
        Measure("last/reward_model/auroc", "verirl", "right and wrong", "AUROC of the model, last fifth"),
        Measure("after/pass@1", "verirl", "right and wrong", "pass@1 after training, trace-back labels"),
        Measure("after/pass@1", "verirl", "unweighted", "pass@1 after training, sample weights"),
    ],
    exact="`tests/methods/test_verirl.py`: labels by hand, what hangs is not judged; weights have mean 1; circuits "
    "and, where Icarus Verilog is installed, modules compile and are tested; no design prints its verdict.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
