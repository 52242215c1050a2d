"""The DeepSeek-V3.2 objective on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.deepseek_v3_2 import deepseek_v3_2 as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def deepseek_v3_2(
    beta: float = 0.001, clip: float = 0.2, delta: float = 0.5, minibatches: int = 1, **options: Any
) -> Run:
    """GRPO with an unbiased KL and a mask for stale mistakes (DeepSeek-AI 2025).

    beta         weight of the KL term towards the starting weights (0: none, and no reference model)
    clip         range of the probability ratio
    delta        mean log-ratio beyond which an answer with a negative advantage is masked
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy,
            reference=policy.reference() if beta else None,
            beta=beta,
            clip=clip,
            delta=delta,
            minibatches=minibatches,
        ),
        name="deepseek-v3-2",
        **options,
    )
