"""A bonus for rare answers on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.outcome_exploration import outcome_exploration as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def outcome_exploration(
    form: Literal["naive", "mean", "con", "batch"] = "con",
    coef: float = 0.2,
    constant: float = 0.5,
    bonus_if_right: bool = True,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Answers that were seldom given are rewarded (2025).

    form            where the bonus goes: into the reward (naive), into the advantage against the others' (mean) or
                    against a constant (con), or against repetition in the group, without a history (batch)
    coef            weight of the bonus
    constant        of con: the bonus of an answer given four times is 0 with 0.5
    bonus_if_right  right answers have the bonus too
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy, form=form, coef=coef, constant=constant, correct=bonus_if_right, minibatches=minibatches
        ),
        name="outcome-exploration",
        **options,
    )
