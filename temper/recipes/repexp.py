"""A bonus for unlike representations on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.repexp import repexp as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def repexp(
    coef: float = 0.01,
    width: int = 32,
    lam: float = 0.01,
    leave_one_out: bool = False,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Answers whose hidden states are unlike the group's others are rewarded (Tuyls et al. 2025).

    coef           weight of the bonus
    width          of the random projection of hidden states
    lam            regularisation of their covariance
    leave_one_out  an answer's own state is not part of it
    seed           of everything that is drawn
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy,
            base=policy.reference("base"),
            coef=coef,
            width=width,
            lam=lam,
            leave_one_out=leave_one_out,
            seed=seed,
            minibatches=minibatches,
        ),
        name="repexp",
        seed=seed,
        **options,
    )
