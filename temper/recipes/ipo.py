"""IPO on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.methods.objectives.ipo import ipo as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def ipo(beta: float = 0.1, average: bool = True, lr: float = 5e-6, **options: Any) -> Run:
    """Identity preference optimisation of prompt + chosen + rejected (Azar et al. 2023).

    beta     the margin that is aimed at is 1/(2 beta)
    average  margins per token, as published code has it, instead of sums
    lr       peak learning rate
    """

    def make(policy: Any) -> Any:
        return method(policy, reference=policy.reference(), beta=beta, average=average)

    return learn_offline(make, preferred, name="ipo", lr=lr, **options)
