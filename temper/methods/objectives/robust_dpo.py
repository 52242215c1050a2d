"""Robust DPO

Paper: Chowdhury, Kini & Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", 2024,
arXiv 2403.00409.
Hook: loss (DPO's, unbiased under labels flipped with a known probability).
Claim: robust to flipped preferences where DPO degrades.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.logprobs import reference_logp
from temper.parts.preferences import DPO, FROM_INFO, PAIRED, Robust
from temper.stage import Stage

SLUG = "robust-dpo"
TITLE = "Robust DPO"
PAPER = "arXiv 2403.00409"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "robust-dpo"


def robust_dpo(
    policy: Any, *, reference: Any, beta: float = 0.1, noise: float = 0.1, pairs: Stage = FROM_INFO
) -> Method:
    return Method(
        on_group=[pairs],
        on_batch=[reference_logp(reference)],
        terms=[Term("policy", DPO(beta, Robust(noise)), per=row_mean, where=PAIRED)],
        policies={"reference": reference},
    )
