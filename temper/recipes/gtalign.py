"""Answers that are worth something to the user and to the assistant, by the geometric mean of both."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.gtalign import gtalign as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run

ASK = (
    "Write four sections and nothing else. <thinking>: how a direct answer (DA), a question back (CQ) or an answer "
    "with a question (AQ) would serve you and the user, if the question is clear (DQ) or vague (VQ). <payoff>: JSON "
    'with the keys DQ_DA, DQ_CQ, DQ_AQ, VQ_DA, VQ_CQ and VQ_AQ, each with numbers from -5 to 5 for "LLM" and "user". '
    "<analyze>: which cell is best for both, and why. <response>: do that; a final answer goes into \\boxed{}. Close "
    "each section with its tag."
)


@extends(post_train, without=("method", "name"))
def gtalign(
    form: Literal["geometric", "arithmetic"] = "geometric",
    sections: bool = False,
    lengths: float = 0.02,
    system: str | None = None,
    beta: float = 0.0,
    gamma: float = 1.0,
    lam: float = 1.0,
    value_coef: float = 0.1,
    minibatches: int = 4,
    **options: Any,
) -> Run:
    """PPO on the welfare of user and assistant, √(U·A) (GTAlign, 2025).

    form         mean of the two: geometric, or arithmetic for comparison
    sections     the model writes thinking, payoffs, analysis and response (else it thinks, and answers)
    lengths      times all lengths in the reward (the paper: 1; the bundled model says little)
    system       a system message that asks for the sections (default: a paragraph, where there are to be sections)
    beta         weight of the KL to the starting weights, in the reward (0: none, and no reference model)
    gamma        discount a token
    lam          λ of GAE: 0 trusts the critic, 1 the return
    value_coef   weight of the critic's loss
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        return method(
            policy, form=form, sections=sections, lengths=lengths, reference=policy.reference() if beta else None,
            beta=beta, gamma=gamma, lam=lam, value_coef=value_coef, minibatches=minibatches,
        )  # fmt: skip

    return post_train(make, name="gtalign", system=ASK if system is None and sections else system, **options)
