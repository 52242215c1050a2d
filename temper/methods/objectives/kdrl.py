"""KDRL

Paper: Xu et al., "KDRL: Post-Training Reasoning LLMs via Unified Knowledge Distillation and Reinforcement Learning",
2025, arXiv 2506.02208.
Hook: loss (a term towards a teacher on the policy's own samples), schedule (its weight falls), gate (where it applies).
Claim: 57.2 % on average over six sets, 2.6 above GRPO and 1.1 above distillation alone; gating shortens answers.

    L = L_GRPO + β_s · mean over tokens of ½(log π_T − log π_θ)²,   β_s = max(5·10⁻³ − 5·10⁻⁵ s, 10⁻³)

On the policy's own samples the gradient of k2 is that of KL(π_θ‖π_T). apply = "response": only where the answer got no
reward; "group": only where no answer of the group did. "in the reward" is KD-RKL: −β·k1 at every token of the reward.
Left out: a correction for several optimiser steps on a batch (samples are then no longer the policy's own). The teacher
needs the policy's tokenizer, and is read at the temperature that was sampled at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from temper.carrier import Batch
from temper.columns import GROUP, LOGP, REWARD, TOKEN, TRAJECTORY, Column, boolean
from temper.method import Method
from temper.objective import Coefficient, Term, token_mean
from temper.parts.advantages import Advantage, ReturnToGo, Whiten
from temper.parts.gates import to_tokens
from temper.parts.kl import KL, TOKEN_REWARD, Estimator, KLReward, k2
from temper.parts.logprobs import Read
from temper.parts.losses import Clip
from temper.parts.schedules import Linear
from temper.stage import Stage

SLUG = "kdrl"
TITLE = "KDRL"
PAPER = "arXiv 2506.02208"
FAMILY = "objectives"
HOOKS = ("loss", "gate")
RECIPE = "kdrl"

TEACHER = LOGP.of("teacher")
TAUGHT = Column("taught", TOKEN, boolean, "the teacher's term applies")
Apply = Literal["all", "response", "group", "in the reward"]
FALLING = Linear(5e-3, 1e-3, 80)


@dataclass(frozen=True)
class WhereItFails:
    """TAUGHT: tokens of answers without reward, or of groups in which no answer has any. Unjudged ones are neither."""

    whole_group: bool = False
    reads = (REWARD,)
    writes = (TAUGHT,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        right = (b[REWARD] > 0).float()
        if self.whole_group:
            right = b.spread(b.sum(right, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        return b.put(TAUGHT, to_tokens(b, (right == 0) & ~torch.isnan(b[REWARD])))


def kdrl(
    policy: Any,
    *,
    teacher: Any,
    beta: Coefficient = FALLING,
    apply: Apply = "all",
    estimator: Estimator = k2,
    clip: float = 0.2,
    minibatches: int = 1,
) -> Method:
    """teacher: the policy to learn from, frozen; beta: weight of its term by the optimiser step; apply: see above."""
    read: list[Stage] = [Read(teacher, {TEACHER: LOGP})]
    credit = Advantage()
    policy_term = Term("policy", Clip(clip, clip), per=token_mean)
    if apply == "in the reward":
        stages = [*read, KLReward(beta, reference=TEACHER), ReturnToGo(token_reward=TOKEN_REWARD), Whiten()]
        return Method([], stages, [policy_term], minibatches=minibatches, policies={"teacher": teacher})
    gates: list[Stage] = [] if apply == "all" else [WhereItFails(apply == "group")]
    taught = Term(
        "teacher", KL(estimator, TEACHER), coef=beta, per=token_mean, where=None if apply == "all" else TAUGHT
    )
    return Method([credit, *gates], read, [policy_term, taught], minibatches=minibatches, policies={"teacher": teacher})
