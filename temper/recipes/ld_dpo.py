"""LD-DPO on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.methods.objectives.ld_dpo import ld_dpo as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def ld_dpo(beta: float = 0.1, alpha: float = 0.5, lr: float = 5e-6, **options: Any) -> Run:
    """DPO in which tokens beyond the length of the shorter answer count less (Liu et al. 2024).

    beta   strength of the pull towards the starting weights
    alpha  weight of the tokens beyond
    lr     peak learning rate
    """

    def make(policy: Any) -> Any:
        return method(policy, reference=policy.reference(), beta=beta, alpha=alpha)

    return learn_offline(make, preferred, name="ld-dpo", lr=lr, **options)
