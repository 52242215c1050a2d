"""Between reinforcement and imitation of the answer, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.tsallis_garl_paft import tsallis_garl_paft as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def tsallis_garl_paft(
    q: float = 0.75, form: Literal["garl", "paft"] = "garl", end: str = "</think>", seed: int = 0, **options: Any
) -> Run:
    """Thinking is reinforced by how likely it makes the right answer, which is imitated (2026).

    q     commitment to supervision: 0 reinforces, 1 imitates
    form  garl: with a baseline; paft: thinking drawn anew in proportion to what it is worth
    end   the text that ends thinking
    seed  of everything that is drawn
    """
    return post_train(
        lambda policy: method(policy, q=q, form=form, end=end, seed=seed),
        name="tsallis-garl-paft",
        seed=seed,
        **options,
    )
