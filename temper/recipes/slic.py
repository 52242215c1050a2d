"""SLiC-HF on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.methods.objectives.slic import slic as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def slic(beta: float = 0.05, lr: float = 5e-6, **options: Any) -> Run:
    """A hinge on the margin between chosen and rejected answers (Zhao et al. 2023).

    beta  the margin counts up to 1 / beta
    lr    peak learning rate
    """

    def make(policy: Any) -> Any:
        return method(policy, reference=policy.reference(), beta=beta)

    return learn_offline(make, preferred, name="slic", lr=lr, **options)
