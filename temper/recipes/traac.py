"""Thinking that is compressed by attention, more where a task is easy, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.backends.base import SamplingParams
from temper.methods.objectives.traac import traac as method
from temper.parts.compression import CUES
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def traac(
    compress: bool = True,
    target: tuple[float, ...] = (0.6, 0.4, 0.2),
    uniform: float = 0.8,
    cues: tuple[str, ...] = (),
    start: str = "<think>",
    end: str = "</think>",
    right: float = 1.0,
    beta: float = 1e-3,
    attempts: int = 8,
    max_tokens: int = 128,
    data: str = SUITE,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Right attempts get copies with shorter thinking, and short right answers a bonus (TRAAC 2025).

    compress     copies with shorter thinking join (false: only the reward for length)
    target       share of the steps of thinking that may go, for easy, medium and hard tasks
    uniform      nothing goes where attention is spread more evenly than this, from 0 to 1
    cues         where a step of thinking begins (default: cue words; a space on the bundled suite)
    start        the tag that opens thinking (empty: the answer does); end: the tag that ends it
    right        reward from which an answer is right
    beta         weight of the KL term towards the starting weights
    attempts     attempts at each task
    max_tokens   longest answer, in tokens
    minibatches  optimiser steps on each batch
    """
    words = cues or ((" ",) if data == SUITE else CUES)
    sampling = SamplingParams(max_tokens, **{k: options[k] for k in ("temperature", "top_p", "top_k") if k in options})
    return post_train(
        lambda policy, judges: method(
            policy, judges=judges, frozen=policy.reference(), beta=beta, compress=compress, target=target,
            uniform=uniform, cues=words, start=start, end=end, right=right, sampling=sampling, seed=seed,
            minibatches=minibatches,
        ),
        name="traac",
        attempts=attempts,
        max_tokens=max_tokens,
        data=data,
        seed=seed,
        **options,
    )  # fmt: skip
