"""Robust DPO on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.methods.objectives.robust_dpo import robust_dpo as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def robust_dpo(beta: float = 0.1, noise: float = 0.1, lr: float = 5e-6, **options: Any) -> Run:
    """DPO for labels that are flipped with a known probability (Chowdhury et al. 2024).

    beta   strength of the pull towards the starting weights
    noise  probability that a label is flipped, below 0.5
    lr     peak learning rate
    """

    def make(policy: Any) -> Any:
        return method(policy, reference=policy.reference(), beta=beta, noise=noise)

    return learn_offline(make, preferred, name="robust-dpo", lr=lr, **options)
