"""PPO

Paper: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv 1707.06347; for language models Ziegler
et al. 2019 (1909.08593) and Ouyang et al. 2022 (2203.02155); GAE 1506.02438; dual clip 1912.09729.
Hook: advantage (GAE with a value head on the policy's trunk, whitened), loss (clip), value loss, KL in the reward.
Claim: several epochs on one batch are safe when the ratio is clipped; a critic credits tokens one by one.
Left out: a critic with its own trunk and optimiser; whitening of the rewards; an own reward head.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Coefficient, Term, token_mean
from temper.parts.advantages import Whiten
from temper.parts.kl import TOKEN_REWARD, KLReward
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip
from temper.parts.values import GAE, ValueHead, ValueLoss, old_values
from temper.stage import Stage

SLUG = "ppo"
TITLE = "PPO"
PAPER = "arXiv 1707.06347"
FAMILY = "objectives"
HOOKS = ("advantage", "loss", "value head")
RECIPE = "ppo"


def ppo(
    policy: Any,
    *,
    reference: Any = None,
    beta: Coefficient = 0.05,
    clip: float = 0.2,
    dual_clip: float | None = None,
    gamma: float = 1.0,
    lam: float = 0.95,
    value_clip: float | None = 0.2,
    value_coef: Coefficient = 0.1,
    epochs: int = 4,
    minibatches: int = 1,
) -> Method:
    """beta: weight of k1 against `reference` in the token rewards, a number or `kl.Adaptive()` (None: no KL)."""
    head = ValueHead()
    penalty: list[Stage] = [] if reference is None else [reference_logp(reference), KLReward(beta)]
    gae = GAE(gamma, lam, token_reward=TOKEN_REWARD if penalty else None)
    return Method(
        on_batch=[*penalty, old_values(policy, head), gae, Whiten()],
        terms=[
            Term("policy", Clip(clip, clip, dual_clip), per=token_mean),
            Term("value", ValueLoss(head, value_clip), coef=value_coef, per=token_mean),
        ],
        epochs=epochs,
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
