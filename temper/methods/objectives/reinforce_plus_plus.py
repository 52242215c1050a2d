"""REINFORCE++

Paper: Hu et al., "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization", 2025,
arXiv 2501.03262.
Hook: advantage (return-to-go of terminal reward and token-level KL, whitened over the batch's tokens), loss (PPO clip).
Claim: statistics of the whole batch are less biased than a small group's; PPO's stability without its critic.
Left out: nothing. Reconstructed: beta (the released scripts vary between 0 and 0.01).
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Term, token_mean
from temper.parts.advantages import ReturnToGo, Whiten
from temper.parts.kl import TOKEN_REWARD, KLReward
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip

SLUG = "reinforce-plus-plus"
TITLE = "REINFORCE++"
PAPER = "arXiv 2501.03262"
FAMILY = "objectives"
HOOKS = ("advantage", "loss")
RECIPE = "reinforce-plus-plus"


def reinforce_plus_plus(
    policy: Any, *, reference: Any = None, beta: Coefficient = 0.01, gamma: float = 1.0, clip: float = 0.2
) -> Method:
    """beta: weight of k1 against `reference` in the token rewards (None: no KL)."""
    term = Term("policy", Clip(clip, clip), per=token_mean)
    if reference is None:
        return Method(on_batch=[ReturnToGo(gamma), Whiten()], terms=[term])
    return Method(
        on_batch=[
            reference_logp(reference),
            KLReward(beta),
            ReturnToGo(gamma, token_reward=TOKEN_REWARD),
            Whiten(),
        ],
        terms=[term],
        policies={"reference": reference},
    )
