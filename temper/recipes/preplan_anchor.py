"""Credit for tokens that plan and tokens that others look back to, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.preplan_anchor import preplan_anchor as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def preplan_anchor(
    form: Literal["local", "global", "coupled"] = "coupled",
    share: float = 0.4,
    gain: float = 0.5,
    alpha: float = 0.5,
    before: int = 3,
    near: int = 3,
    far: int = 20,
    minibatches: int = 4,
    **options: Any,
) -> Run:
    """More credit to tokens that attention shows to plan or to anchor (Wang et al. 2025).

    form         what is emphasised: local (plans), global (anchors), or both, coupled
    share        of an answer's tokens that count as planning, and as anchors
    gain         on their advantage
    alpha        share of it that an anchor hands to the token that introduces it
    before       tokens before an anchor in which that one is looked for
    near         tokens behind one from which its influence is looked for (the paper: 10); far: until where (50)
    minibatches  optimiser steps on each batch
    """
    return post_train(
        lambda policy: method(
            policy, form=form, share=share, gain=gain, alpha=alpha, before=before, near=near, far=far,
            minibatches=minibatches,
        ),
        name="preplan-anchor",
        **options,
    )  # fmt: skip
