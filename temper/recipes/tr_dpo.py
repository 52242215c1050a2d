"""TR-DPO on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.errors import UserError
from temper.methods.objectives.tr_dpo import tr_dpo as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def tr_dpo(beta: float = 0.1, alpha: float = 0.6, every: int = 512, lr: float = 5e-6, **options: Any) -> Run:
    """DPO with a reference that follows the policy (Gorbatovski et al. 2024).

    beta   strength of the pull towards the reference
    alpha  share of the policy in the renewed reference
    every  optimiser steps between renewals
    lr     peak learning rate
    """
    if options.get("lora"):
        raise UserError("the reference cannot follow adapters: TR-DPO needs full fine-tuning, so leave --lora out")

    def make(policy: Any) -> Any:
        return method(policy, reference=policy.reference(), beta=beta, alpha=alpha, every=every)

    return learn_offline(make, preferred, name="tr-dpo", lr=lr, **options)
