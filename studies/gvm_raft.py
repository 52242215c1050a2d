"""Attempts by what they are worth against as many at every task. python -m studies.gvm_raft --seeds 5"""

from __future__ import annotations

from studies.check import Check, Measure, main
from studies.versus import SAMPLED, SETTING, at_equal_tokens
from temper.recipes.grpo import grpo
from temper.recipes.gvm_raft import gvm_raft
from temper.recipes.raft_plus_plus import raft_plus_plus

EASY = "rg:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1&size=2000"
BIMODAL = f"{EASY},rg:chain_sum?min_terms=2&max_terms=2&min_digits=2&max_digits=2&size=2000"

CHECK = Check(
    slug="gvm-raft",
    title="GVM-RAFT",
    claim="Two to four times fewer steps than RAFT++ to the same accuracy, and a better one in the end; similar "
    "gains over GRPO (arXiv 2505.02391).",
    setting=SETTING.replace("its quickstart suite", "sums of two numbers, of one digit and of two in turn")
    + " No KL term. Tokens of probes count as sampled: as many attempts as are trained on. `half` ends after 20,000.",
    arms={
        "gvm": at_equal_tokens(gvm_raft, data=BIMODAL, beta=0.0, phase=6),
        "raft++": at_equal_tokens(raft_plus_plus, data=BIMODAL),
        "raft++, half": at_equal_tokens(raft_plus_plus, SAMPLED // 2, data=BIMODAL),
        "gvm-grpo": at_equal_tokens(gvm_raft, data=BIMODAL, beta=0.0, phase=6, form="grpo"),
        "grpo": at_equal_tokens(grpo, data=BIMODAL, per="token"),
    },
    measures=[
        Measure("after/pass@1", "gvm", "raft++", "pass@1 after training, probes counted"),
        Measure("after/pass@1", "gvm", "raft++, half", "pass@1 after about as many steps, probes not counted"),
        Measure("after/pass@1", "gvm-grpo", "grpo", "pass@1 after training by GRPO, probes counted"),
    ],
    exact="`tests/methods/test_gvm_raft.py`: no random allocation of 200,000 has a lower Σ G²/(p n); the attempts add "
    "up exactly; G is of accepted probes only; α holds back what is hardly ever solved.",
    note="Behind RAFT++ with as many tokens, and behind RAFT++ with half of them: here probes do not pay for "
    "themselves, nor does the allocation help beside them.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
