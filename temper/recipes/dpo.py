"""DPO on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.methods.objectives.dpo import dpo as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def dpo(beta: float = 0.1, noise: float = 0.0, sft: float = 0.0, lr: float = 5e-6, **options: Any) -> Run:
    """Direct preference optimisation of prompt + chosen + rejected (Rafailov et al. 2023).

    beta   strength of the pull towards the starting weights
    noise  probability that a label is wrong (conservative DPO)
    sft    weight of imitating the chosen answer
    lr     peak learning rate
    """

    def make(policy: Any) -> Any:
        return method(policy, reference=policy.reference(), beta=beta, noise=noise, sft=sft)

    return learn_offline(make, preferred, name="dpo", lr=lr, **options)
