"""RLOO

Paper: Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in
LLMs", 2024, arXiv 2402.14740 (the estimator: Kool, van Hoof & Welling 2019).
Hook: advantage (leave-one-out baseline), loss (whole-sequence REINFORCE), KL in the reward.
Claim: PPO's critic, GAE and clipping are not needed from a strong start; RLOO beats PPO at less cost.
Left out: reward clipping and batch normalisation (options of TRL's trainer, not of the paper), TRL's clipped sequence
ratio (the same gradient at one update per batch).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Term, seq_mean_token_sum
from temper.parts.advantages import Advantage, leave_one_out, unscaled
from temper.parts.kl import PENALISED, KLReward, SequencePenalty
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Reinforce

SLUG = "rloo"
TITLE = "RLOO"
PAPER = "arXiv 2402.14740"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "rloo"


def rloo(policy: Any, *, reference: Any = None, beta: Coefficient = 0.05) -> Method:
    """beta: weight of Σ_t k1 against `reference`, subtracted from the reward (None: no KL)."""
    term = Term("policy", Reinforce(), per=seq_mean_token_sum)
    if reference is None:
        return Method(on_group=[Advantage(leave_one_out, unscaled)], terms=[term])
    return Method(
        on_batch=[
            reference_logp(reference),
            KLReward(beta),
            SequencePenalty(),
            Advantage(leave_one_out, unscaled, reward=PENALISED),
        ],
        terms=[term],
        policies={"reference": reference},
    )
