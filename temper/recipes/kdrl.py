"""Reinforcement and a teacher at once, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.kdrl import kdrl as method
from temper.parts.schedules import Linear
from temper.policy import Policy
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def kdrl(
    teacher: str | None = None,
    beta: float = 5e-3,
    beta_end: float = 1e-3,
    fall: int = 80,
    apply: Literal["all", "response", "group", "in the reward"] = "all",
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """GRPO with a term towards a teacher, on the policy's own answers (KDRL 2025).

    teacher      a model with the same tokenizer (default: the weights that training starts from)
    beta         weight of the teacher's term at first; beta_end: in the end
    fall         optimiser steps until then
    apply        to all answers, to each wrong response, to each group without a right one, or in the reward
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        shared = {"dtype": policy.dtype, "device": policy.device, "token_budget": policy.token_budget}
        taught_by = policy.reference("teacher") if teacher is None else Policy(
            "teacher", teacher, trainable=False, **shared
        )  # fmt: skip
        return method(
            policy, teacher=taught_by, beta=Linear(beta, beta_end, fall), apply=apply, minibatches=minibatches
        )

    return post_train(make, name="kdrl", **options)
