"""Unary feedback (UFO)

Paper: Liu et al., "A Simple 'Try Again' Can Elicit Multi-Turn LLM Reasoning", 2025, arXiv 2507.14295.
Hook: rollout (questions with one answer as episodes of up to five attempts, `envs.try_again`), reward (decay with the
turn, format, repeated answers), gate (the groups whose rewards vary most), advantage (GAE with a critic, or the group).
Claim: up to 14 % more questions solved within five turns than single-turn RL, at the same single-turn accuracy; about
10 % fewer turns; 92.8 % distinct answers, not 79.7.
Left out: a critic with its own trunk and optimiser; several answers in one turn; the several formats of its prompts.
The released code also shows the numeric reward and the actions left, encodes its history anew from parsed text, lets a
turn without an answer be free, and then may never take the repetition off; here feedback is the one sentence, ids stay,
and the reward is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, REWARD, TOKEN, TRAJECTORY, Column, boolean
from temper.envs.try_again import TryAgain
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, Whiten
from temper.parts.kl import TOKEN_REWARD, KLReward
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip, EntropyBonus
from temper.parts.values import GAE, RETURN, ValueHead, ValueLoss, old_values
from temper.stage import Stage

SLUG = "ufo-unary-feedback"
TITLE = "Unary feedback (UFO)"
PAPER = "arXiv 2507.14295"
FAMILY = "rollouts"
HOOKS = ("rollout", "reward", "gate", "advantage")
RECIPE = "ufo-unary-feedback"
CHOSEN = Column("chosen", TOKEN, boolean, "of a group whose rewards vary most")


@dataclass(frozen=True)
class TopGroups:
    """Keeps the `share` of the groups (at least one) with the largest reward std; NaN is the others' `credit`."""

    share: float = 0.25
    credit: tuple[Column, ...] = (ADVANTAGE,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (REWARD, *self.credit)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (CHOSEN, *self.credit)

    async def __call__(self, b: Batch) -> Batch:
        r = b[REWARD]
        gap = r - b.spread(b.mean(r, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        std = (b.sum(gap.square(), TRAJECTORY, GROUP) / (b.sum((~r.isnan()).float(), TRAJECTORY, GROUP) - 1)).sqrt()
        best = torch.argsort(std.nan_to_num(nan=-1.0, posinf=-1.0), descending=True, stable=True)
        kept = torch.zeros(b.size(GROUP)).index_fill(0, best[: max(1, int(self.share * b.size(GROUP)))], 1.0)
        chosen = b.spread(kept, GROUP, TOKEN) > 0
        for column in self.credit:
            b = b.put(column, torch.where(chosen, b[column], torch.full_like(b[column], torch.nan)))
        return b.put(CHOSEN, chosen)


def ufo_unary_feedback(
    policy: Any,
    *,
    env: TryAgain | None = None,
    critic: bool = True,
    reference: Any = None,
    beta: float = 1e-3,
    share: float = 0.25,
    entropy: float = 1e-3,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    value_coef: float = 0.1,
    minibatches: int = 1,
) -> Method:
    """critic: PPO with GAE (γ = λ = 1), else the mean and std of the group; beta: weight of k1 against `reference` in
    the token rewards (with a critic only)."""
    clip, bonus = Term("policy", Clip(clip_low, clip_high)), Term("entropy", EntropyBonus(), entropy, where=CHOSEN)
    if not critic:
        return Method(
            on_group=[Advantage()], on_batch=[TopGroups(share)], terms=[clip, bonus], minibatches=minibatches,
            env=env or TryAgain(),
        )  # fmt: skip
    head = ValueHead()
    kl: list[Stage] = [] if reference is None else [reference_logp(reference), KLReward(beta)]
    gae = GAE(1.0, 1.0, token_reward=TOKEN_REWARD if kl else None)
    return Method(
        on_batch=[*kl, old_values(policy, head), gae, TopGroups(share, (ADVANTAGE, RETURN)), Whiten()],
        terms=[clip, bonus, Term("value", ValueLoss(head), value_coef, token_mean)],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
        env=env or TryAgain(),
    )
