"""SLiC-HF

Paper: Zhao et al., "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", 2023, arXiv 2305.10425.
Hook: loss (hinge on the margin).
Claim: as good as RLHF with PPO, simpler and cheaper.
Left out: the regularisation term on reference targets; the margin is taken against a reference, as in RSO and TRL.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.logprobs import reference_logp
from temper.parts.preferences import DPO, FROM_INFO, PAIRED, hinge
from temper.stage import Stage

SLUG = "slic"
TITLE = "SLiC-HF"
PAPER = "arXiv 2305.10425"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "slic"


def slic(policy: Any, *, reference: Any, beta: float = 0.05, pairs: Stage = FROM_INFO) -> Method:
    return Method(
        on_group=[pairs],
        on_batch=[reference_logp(reference)],
        terms=[Term("policy", DPO(beta, hinge), per=row_mean, where=PAIRED)],
        policies={"reference": reference},
    )
