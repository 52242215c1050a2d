"""TR-DPO

Paper: Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment", 2024, arXiv 2404.09656.
Hook: loss (DPO's), after every optimiser step (the reference follows the policy).
Claim: less over-optimisation than DPO: the policy may leave the first reference without its quality dropping.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.logprobs import reference_logp
from temper.parts.preferences import DPO, FROM_INFO, PAIRED
from temper.parts.reference import RefreshReference
from temper.stage import Stage

SLUG = "tr-dpo"
TITLE = "TR-DPO"
PAPER = "arXiv 2404.09656"
FAMILY = "objectives"
HOOKS = ("loss", "hook")
RECIPE = "tr-dpo"


def tr_dpo(
    policy: Any,
    *,
    reference: Any,
    beta: float = 0.1,
    alpha: float = 0.6,
    every: int = 512,
    pairs: Stage = FROM_INFO,
) -> Method:
    return Method(
        on_group=[pairs],
        on_batch=[reference_logp(reference)],
        terms=[Term("policy", DPO(beta), per=row_mean, where=PAIRED)],
        after=[RefreshReference(reference, alpha, every)],
        policies={"reference": reference},
    )
