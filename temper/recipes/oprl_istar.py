"""Rewards of steps, learned beside the policy from outcomes: in one answer, or over the turns of an episode."""

from __future__ import annotations

from typing import Any, Literal

from temper.envs.try_again import TryAgain
from temper.methods.objectives.oprl_istar import oprl_istar as method
from temper.parts.process_rewards import By
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def oprl_istar(
    turns: int = 1,
    step: Literal["auto", "turn", "line", "word"] = "auto",
    alpha: float = 1.0,
    beta: float = 0.05,
    process_lr: float = 2e-4,
    fresh: bool = False,
    first: bool = False,
    clip: float = 0.2,
    minibatches: int = 1,
    data: str = SUITE,
    **options: Any,
) -> Run:
    """An implicit process reward model, trained online beside the policy (iStar, 2025).

    turns        attempts in an episode, each told only that the last was wrong: a step is a turn (1: one answer)
    step         what a step of one answer is (auto: a line; a word of the bundled suite, whose answers have one line)
    alpha        weight of the advantage of steps (0: none, and no process model)
    beta         of the step rewards: times the log-ratio of the process model to the sampler
    process_lr   learning rate of the process model (the paper: twice the policy's, 1e-6)
    fresh        score steps with the process model after its update, not as it was before
    first        compare a step with the first step of each trajectory only, as the published code does
    clip         range of the probability ratio
    minibatches  optimiser steps on each batch
    """
    by: By = ("word" if data == SUITE else "line") if step == "auto" else step
    return post_train(
        lambda policy: method(
            policy, env=TryAgain(turns) if turns > 1 else None, by=by, alpha=alpha, beta=beta, process_lr=process_lr,
            fresh=fresh, first=first, clip=clip, minibatches=minibatches,
        ),
        name="oprl-istar",
        data=data,
        **options,
    )  # fmt: skip
