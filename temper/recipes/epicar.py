"""Rounds of imitating one's own right answers and verdicts on them, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.epicar import epicar as method
from temper.parts.self_evaluation import ASK
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def epicar(
    verdicts: Literal["both", "yes", "none"] = "both",
    balance: bool = True,
    right: float = 1.0,
    ask: str = ASK,
    cue: str = "</think>",
    cue_tokens: int = 16,
    restart: bool = False,
    steps: int = 10,
    groups: int = 64,
    attempts: int = 10,
    epochs: int = 1,
    minibatches: int = 8,
    seed: int = 0,
    **options: Any,
) -> Run:
    """A step is a round: sample, judge, imitate right answers and verdicts on all (EpiCaR 2026).

    verdicts     both; yes: on right answers only; none: only right answers are imitated (STaR)
    balance      as many verdicts of either kind
    right        reward from which an answer is right
    ask          the question behind an answer
    cue          what an answer that was cut off without it gets, and goes on behind (empty: nothing)
    cue_tokens   longest answer behind it
    restart      every round starts from the first weights
    steps        rounds
    groups       tasks in a round
    attempts     answers to each task
    epochs       passes over a round's examples
    minibatches  optimiser steps of a pass
    """
    return post_train(
        lambda policy, judges: method(
            policy, judges=judges, verdicts=verdicts, balance=balance, right=right, ask=ask, cue=cue,
            cue_tokens=cue_tokens, base=policy.reference("base") if restart else None, seed=seed, epochs=epochs,
            minibatches=minibatches,
        ),
        name="epicar",
        steps=steps,
        groups=groups,
        attempts=attempts,
        seed=seed,
        **options,
    )  # fmt: skip
