"""OPRL (iStar)

Paper: "Agentic Reinforcement Learning with Implicit Step Rewards", 2025, arXiv 2509.19199 (online process reward
learning); code Tongyi-ConvAI/Qwen-Character.
Hook: a second policy that is trained before the advantages (a process reward model), reward (of steps), advantage (of
trajectories and of steps).
Claim: the best of those compared on WebShop, VisualSokoban and SOTOPIA, in fewer steps than GiGPO, PPO and GRPO with
rewards of outcomes alone.

    R_k = β Σ_{t ∈ step k} [log π_φ − log π_old], over the largest |Σ_{k' ≥ k} R_k'| of the batch;  β = 0.05
    π_φ: −log σ(Q_i − Q_j) over the pairs of a group where i did better, Q the mean over steps of the unscaled R_k
    A = A^ep + α·A^st: leave-one-out over the group's rewards, and over the step rewards of all of its steps

π_φ starts as the policy. While it is π_old all step rewards are 0 and A is RLOO's. Σ_k R_k is β times the whole
answer's log-ratio. As in the code, the rewards are those of the model before this batch's update; `fresh` takes those
after it. The code compares a step with the first step of each other trajectory (`first`); here it is with every step.
Left out: the environments. A penalty for invalid actions belongs to one (`TryAgain.violation`). In the code each turn
is a row of its own, so its largest |R_k| is here the largest sum of what is still to come.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage, leave_one_out, unscaled
from temper.parts.losses import Clip
from temper.parts.process_rewards import By, ProcessRewards, StepAdvantage, Steps, model_for
from temper.request import Env
from temper.stage import Stage

SLUG = "oprl-istar"
TITLE = "OPRL (iStar)"
PAPER = "arXiv 2509.19199"
FAMILY = "objectives"
HOOKS = ("extra policy", "reward", "advantage")
RECIPE = "oprl-istar"


def oprl_istar(
    policy: Any,
    *,
    env: Env | None = None,
    by: By = "line",
    alpha: float = 1.0,
    beta: float = 0.05,
    process_lr: float = 1e-6,
    fresh: bool = False,
    first: bool = False,
    clip: float = 0.2,
    minibatches: int = 1,
) -> Method:
    """env: the rollout (None: the run's own); by: see `Steps`; alpha 0: no process model, RLOO; others: see parts."""
    stages: list[Stage] = []
    policies: dict[str, Any] = {}
    if alpha:
        policies = {"process": model_for(policy, process_lr)}
        stages = [Steps(policy, by), ProcessRewards(policies["process"], beta, fresh), StepAdvantage(alpha, first)]
    return Method(
        on_group=[Advantage(leave_one_out, unscaled)],
        on_batch=stages,
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean)],
        minibatches=minibatches,
        policies=policies,
        env=env,
    )
