"""ORPO

Paper: Hong, Lee & Thorne, "ORPO: Monolithic Preference Optimization without Reference Model", 2024, arXiv 2403.07691.
Hook: loss (imitation of the chosen answer and a log odds ratio, one value per pair).
Claim: preference alignment in the SFT phase itself, without a reference.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.preferences import FROM_INFO, ORPO, PAIRED
from temper.stage import Stage

SLUG = "orpo"
TITLE = "ORPO"
PAPER = "arXiv 2403.07691"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "orpo"


def orpo(policy: Any, *, lam: float = 0.1, pairs: Stage = FROM_INFO) -> Method:
    return Method(on_group=[pairs], terms=[Term("policy", ORPO(lam), per=row_mean, where=PAIRED)])
