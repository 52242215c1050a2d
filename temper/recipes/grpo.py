"""GRPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.grpo import grpo as method
from temper.objective import Per, SeqMeanTokenSumNorm, seq_mean_token_mean, seq_mean_token_sum, token_mean
from temper.parts.advantages import GROUP_STD, BatchStd, Statistic, unscaled
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run

SCALES: dict[str, Statistic] = {"group": GROUP_STD, "batch": BatchStd(), "none": unscaled}


@extends(post_train, without=("method", "name"))
def grpo(
    beta: float = 0.0,
    clip: float = 0.2,
    scale: Literal["group", "batch", "none"] = "group",
    per: Literal["answer", "token", "answer-sum", "constant"] = "answer",
    max_tokens: int = 128,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Group relative policy optimisation (Shao et al. 2024).

    beta         weight of the KL term towards the starting weights (0: none, and no reference model)
    clip         range of the probability ratio
    scale        standard deviation that advantages are divided by: of the group, of the batch, or none
    per          what counts the same: every answer, every token, every answer by its sum of tokens, or by that sum
                 over the constant max_tokens
    max_tokens   longest answer, in tokens
    minibatches  optimiser steps on each batch
    """
    weightings: dict[str, Per] = {
        "answer": seq_mean_token_mean, "token": token_mean, "answer-sum": seq_mean_token_sum,
        "constant": SeqMeanTokenSumNorm(max_tokens),
    }  # fmt: skip

    def make(policy: Any) -> Any:
        return method(
            policy, reference=policy.reference() if beta else None, beta=beta, clip=clip, scale=SCALES[scale],
            per=weightings[per], minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="grpo", max_tokens=max_tokens, **options)
