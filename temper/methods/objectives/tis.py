"""Truncated importance sampling

Paper: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025 (report).
Hook: stage (the learner's log-probs before the update, and w = min(π_old/π_behaviour, cap)), loss (weighted by w).
Claim: training with a fast, slightly different sampler behaves as if the learner had sampled itself.
Left out: nothing; masking and the sequence level are options of `parts.ratios`.
"""

from __future__ import annotations

from typing import Any

from temper.columns import TOKEN, Level
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.logprobs import old_logp
from temper.parts.losses import Clip
from temper.parts.ratios import Cut, TruncatedIS, corrected, truncate

SLUG = "tis"
TITLE = "Truncated importance sampling"
PAPER = "Yao et al. 2025"
FAMILY = "objectives"
HOOKS = ("stage", "loss")
RECIPE = "tis"


def tis(
    policy: Any,
    *,
    cap: float = 2.0,
    level: Level = TOKEN,
    cut: Cut = truncate,
    normalise: bool = False,
    clip: float = 0.2,
    minibatches: int = 1,
) -> Method:
    return Method(
        on_group=[Advantage()],
        on_batch=[old_logp(policy), TruncatedIS(cap, level, cut, normalise)],
        terms=[Term("policy", corrected(Clip(clip, clip)), per=token_mean)],
        minibatches=minibatches,
    )
