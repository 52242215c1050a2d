"""Regression on z-scores, with prompts that adapt, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.backends.base import SamplingParams
from temper.methods.objectives.reg_grpo import reg_grpo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def reg_grpo(
    beta: float = 0.0,
    eps: float = 0.1,
    augment: bool = False,
    window: int = 64,
    max_tokens: int = 128,
    temperature: float = 1.0,
    minibatches: int = 4,
    seed: int = 0,
    **options: Any,
) -> Run:
    """The group's log-ratios regress on its rewards (DeepVideo-R1, Park et al. 2025).

    beta         weight of the KL term towards the starting weights (0: none, and no reference model)
    eps          of the deviation of log-ratios: the first gradient is that of GRPO over it
    augment      hints for tasks that go badly, dropped words for those that go well; then played again
    window       groups that the usual reward is taken over
    max_tokens   longest answer, in tokens
    temperature  of sampling
    minibatches  optimiser steps on each batch
    seed         of everything that is drawn
    """

    def make(policy: Any, judges: Any) -> Any:
        return method(
            policy, judges=judges, reference=policy.reference() if beta else None, beta=beta, eps=eps, augment=augment,
            window=window, sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature), seed=seed,
            minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="reg-grpo", max_tokens=max_tokens, temperature=temperature, seed=seed, **options)
