"""Rethinking Thinking Tokens (PDR)

Paper: Madaan et al., "Rethinking Thinking Tokens: LLMs as Improvement Operators", 2025, arXiv 2510.01123.
Hook: rollout (drafts in parallel, a short workspace, a refinement: `envs.refine`), tasks (half plain, half through the
operator), loss (clipped ratio as a weight without gradient, and imitation of what was right).
Claim: at equal latency in tokens 11 and 9 points over long thinking on AIME 2024 and 2025; trained on the operator
5 points more than with ordinary RL; the accuracy of sequential refinement for 2.57 times fewer tokens in sequence.
Left out: nothing that is known; no code is public. Reconstructed (all configurable): the bounds of the ratio, the
advantage (mean and std of the group, over refinements of one question whatever their drafts), what ranks drafts (their
mean log-prob), noise for each refinement's own top k, and that drafts are not trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import GROUP, TASK, TOKEN
from temper.envs.refine import Refine
from temper.envs.single import SingleTurn
from temper.envs.switch import Switch
from temper.method import Method
from temper.objective import Term
from temper.parts.advantages import Advantage
from temper.parts.gates import REWARDED, Rewarded
from temper.parts.losses import CISPO
from temper.parts.sft import NLL

SLUG = "pdr-improvement-operator"
TITLE = "Rethinking Thinking Tokens (PDR)"
PAPER = "arXiv 2510.01123"
FAMILY = "rollouts"
HOOKS = ("rollout", "tasks", "loss")
RECIPE = "pdr-improvement-operator"
OPERATOR = "operator"  # info["env"] of tasks that go through the operator; the others are answered plainly


def half_each(b: Batch, live: Tensor) -> Tensor:
    """½ token mean over plain answers + ½ token mean over refinements; all of it where there is only one kind."""
    operated = torch.tensor([float(t.info.get("env") == OPERATOR) for t in b[TASK]])
    mine = b.spread(operated, GROUP, TOKEN)
    parts = [live * mine, live * (1 - mine)]
    return sum((p / p.sum().clamp(min=1) for p in parts), torch.zeros_like(live)) / max(
        1, sum(bool(p.any()) for p in parts)
    )


def pdr_improvement_operator(
    policy: Any,
    *,
    env: Refine | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    alpha: float = 0.1,
    threshold: float = 0.5,
    minibatches: int = 4,
) -> Method:
    """env: the operator (one round of 4 drafts); alpha: of the imitation of answers with a reward above threshold."""
    return Method(
        on_group=[Advantage(), Rewarded(threshold)],
        terms=[
            Term("policy", CISPO(1 + clip_high, 1 - clip_low), per=half_each),
            Term("right answers", NLL(), coef=alpha, per=half_each, where=REWARDED),
        ],
        minibatches=minibatches,
        env=Switch({"plain": SingleTurn(), OPERATOR: env or Refine()}, default="plain"),
    )
