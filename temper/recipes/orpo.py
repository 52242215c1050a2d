"""ORPO on your own preference data."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import preferred
from temper.methods.objectives.orpo import orpo as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def orpo(lam: float = 0.1, lr: float = 8e-6, **options: Any) -> Run:
    """Imitation and preference in one loss, without a reference model (Hong, Lee & Thorne 2024).

    lam  weight of the odds ratio
    lr   peak learning rate
    """

    def make(policy: Any) -> Any:
        return method(policy, lam=lam)

    return learn_offline(make, preferred, name="orpo", lr=lr, **options)
