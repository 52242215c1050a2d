"""RL-PLUS

Paper: Dong et al., "RL-PLUS: Countering Capability Boundary Collapse of LLMs in Reinforcement Learning with
Hybrid-policy Optimization", 2025, arXiv 2508.00222; code YihongDong/RL-PLUS.
Hook: rollout (a worked answer joins every group), advantage (over all of them), loss (by where a row comes from).
Claim: up to 69.2 % (relative, on average) above GRPO-like baselines; pass@k does not fall below the base model's.

    A = r − mean over the group, the worked answer included
    attempts:       −A·ρ, without a clip
    worked answer:  −A·m·(1 − sg π_θ)^γ,  m = 2π_θ/(π_old + ω), ω = ½(π_old + 1): 0 to 4, 1 only for a certain token
    summed over the tokens of an answer, over a constant length

The expert's probability is modelled by ω, never measured. The worked answer goes through the judges, so that a wrong
one is pushed away. No clip: clip the gradient, and make one pass over a batch.
Left out: nothing. The paper draws 7 attempts beside the worked answer; here attempts are as many as are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.method import Method
from temper.objective import SeqMeanTokenSumNorm, Term
from temper.parts.advantages import Advantage, unscaled
from temper.parts.demonstrations import AddDemonstration
from temper.parts.gates import MarkDemonstrations
from temper.parts.hybrid import Hybrid
from temper.parts.logprobs import old_logp
from temper.parts.losses import EntropyBonus
from temper.stage import Stage

SLUG = "rl-plus"
TITLE = "RL-PLUS"
PAPER = "arXiv 2508.00222"
FAMILY = "objectives"
HOOKS = ("rollout", "advantage", "loss")
RECIPE = "rl-plus"


def rl_plus(
    policy: Any,
    *,
    judges: Sequence[Stage] = (),
    gamma: float = 0.5,
    entropy: float = 1e-3,
    length: int = 8192,
    minibatches: int = 1,
) -> Method:
    """judges: the run's own; gamma: how much unlikely tokens of a worked answer count; length: the constant."""
    per = SeqMeanTokenSumNorm(length)
    bonus = [Term("entropy", EntropyBonus(), coef=entropy, per=per)] if entropy else []
    return Method(
        on_group=[AddDemonstration(policy, judges), Advantage(scale=unscaled), MarkDemonstrations()],
        on_batch=[old_logp(policy)],
        terms=[Term("policy", Hybrid(gamma), per=per), *bonus],
        minibatches=minibatches,
    )
