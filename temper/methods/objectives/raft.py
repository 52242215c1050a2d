"""RAFT

Paper: Dong et al., "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment", 2023, arXiv 2304.06767.
Hook: gate (attempts with positive reward), loss (their negative log-likelihood).
Claim: fine-tuning on one's own best samples is simple, stable and competitive with PPO.
Left out: keeping only the single best of each group (with verifiable rewards: everything above `threshold`).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.gates import REWARDED, Rewarded
from temper.parts.sft import NLL

SLUG = "raft"
TITLE = "RAFT"
PAPER = "arXiv 2304.06767"
FAMILY = "objectives"
HOOKS = ("gate", "loss")
RECIPE = "raft"


def raft(policy: Any, *, threshold: float = 0.0) -> Method:
    return Method(
        on_group=[Rewarded(threshold)],
        terms=[Term("policy", NLL(), per=token_mean, where=REWARDED)],
    )
