"""LD-DPO

Paper: Liu et al., "Length Desensitization in Direct Preference Optimization", 2024, arXiv 2409.06411.
Hook: loss (tokens beyond the shorter answer's length count less).
Claim: 10 to 40 % shorter answers at the same or better quality.
Left out: nothing. Reconstructed: alpha, which the paper tunes per model.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.logprobs import reference_logp
from temper.parts.preferences import DPO, FROM_INFO, PAIRED
from temper.stage import Stage

SLUG = "ld-dpo"
TITLE = "LD-DPO"
PAPER = "arXiv 2409.06411"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "ld-dpo"


def ld_dpo(policy: Any, *, reference: Any, beta: float = 0.1, alpha: float = 0.5, pairs: Stage = FROM_INFO) -> Method:
    return Method(
        on_group=[pairs],
        on_batch=[reference_logp(reference)],
        terms=[Term("policy", DPO(beta, tail=alpha), per=row_mean, where=PAIRED)],
        policies={"reference": reference},
    )
