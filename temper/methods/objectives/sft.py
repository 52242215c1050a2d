"""Supervised fine-tuning

Paper: none of its own (Ouyang et al. 2022, arXiv 2203.02155, for instruction following).
Hook: gate (demonstration tokens), loss (negative log-likelihood).
Claim: imitates the demonstrations.
Left out: nothing. The prompt's tokens are no rows, so they carry no loss.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Per, Term, token_mean
from temper.parts.gates import DEMONSTRATION, MarkDemonstrations
from temper.parts.sft import NLL

SLUG = "sft"
TITLE = "Supervised fine-tuning"
PAPER = ""
FAMILY = "objectives"
HOOKS = ("gate", "loss")
RECIPE = "sft"


def sft(policy: Any, *, coef: Coefficient = 1.0, per: Per = token_mean) -> Method:
    return Method(
        on_group=[MarkDemonstrations()],
        terms=[Term("sft", NLL(), coef=coef, per=per, where=DEMONSTRATION)],
    )
