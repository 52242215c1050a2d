"""IPO

Paper: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2023,
arXiv 2310.12036.
Hook: loss (squared distance of the margin to 1/(2β)).
Claim: does not overfit deterministic preferences, as DPO does.
Left out: nothing; `average` (the margin per token) is what published code does, the paper sums.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.logprobs import reference_logp
from temper.parts.preferences import DPO, FROM_INFO, PAIRED, squared
from temper.stage import Stage

SLUG = "ipo"
TITLE = "IPO"
PAPER = "arXiv 2310.12036"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "ipo"


def ipo(policy: Any, *, reference: Any, beta: float = 0.1, average: bool = True, pairs: Stage = FROM_INFO) -> Method:
    return Method(
        on_group=[pairs],
        on_batch=[reference_logp(reference)],
        terms=[Term("policy", DPO(beta, squared, average), per=row_mean, where=PAIRED)],
        policies={"reference": reference},
    )
