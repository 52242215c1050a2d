"""DPO

Paper: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
arXiv 2305.18290; the SFT term: Pang et al. 2024 (2404.19733); label smoothing: Mitchell 2023 (cDPO).
Hook: loss (one value per pair), with an optional imitation term on the chosen answer.
Claim: the KL-regularised reward maximum without a reward model or sampling.
Left out: nothing.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, row_mean, token_mean
from temper.parts.logprobs import reference_logp
from temper.parts.preferences import CHOSEN_TOKEN, DPO, FROM_INFO, PAIRED, Logistic
from temper.parts.sft import NLL
from temper.stage import Stage

SLUG = "dpo"
TITLE = "DPO"
PAPER = "arXiv 2305.18290"
FAMILY = "objectives"
HOOKS = ("loss",)
RECIPE = "dpo"


def dpo(
    policy: Any,
    *,
    reference: Any,
    beta: float = 0.1,
    noise: float = 0.0,
    sft: float = 0.0,
    pairs: Stage = FROM_INFO,
) -> Method:
    """noise: probability that a label is wrong; sft: weight of −log π of the chosen answer (token mean)."""
    terms = [Term("policy", DPO(beta, Logistic(noise)), per=row_mean, where=PAIRED)]
    if sft:
        terms.append(Term("sft", NLL(), coef=sft, per=token_mean, where=CHOSEN_TOKEN))
    return Method(
        on_group=[pairs],
        on_batch=[reference_logp(reference)],
        terms=terms,
        policies={"reference": reference},
    )
