"""PPO with a value head on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.ppo import ppo as method
from temper.parts.kl import Adaptive
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def ppo(
    beta: float = 0.05,
    kl_target: float = 0.0,
    clip: float = 0.2,
    dual_clip: float | None = None,
    gamma: float = 1.0,
    lam: float = 0.95,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
    epochs: int = 4,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Actor and critic on one trunk, several epochs a batch (Schulman et al. 2017).

    beta         weight of the KL to the starting weights, in the reward (0: none, and no reference model)
    kl_target    KL of an answer, in nats, that beta is steered towards (0: beta stays)
    clip         range of the probability ratio
    dual_clip    bound on the ratio where the advantage is negative (none: no bound)
    gamma        discount a token
    lam          λ of GAE: 0 trusts the critic, 1 the return
    value_clip   how far a value may move in an update (none: any way)
    value_coef   weight of the critic's loss
    epochs       passes over each batch
    minibatches  optimiser steps in each pass
    """

    def make(policy: Any) -> Any:
        return method(
            policy, reference=policy.reference() if beta else None,
            beta=Adaptive(beta, kl_target) if kl_target else beta, clip=clip, dual_clip=dual_clip, gamma=gamma,
            lam=lam, value_clip=value_clip, value_coef=value_coef, epochs=epochs, minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="ppo", **options)
