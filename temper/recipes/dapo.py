"""DAPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.dapo import dapo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def dapo(
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    max_tokens: int = 128,
    buffer: int | None = None,
    penalty: float = 1.0,
    filter_overlong: bool = False,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """Clip-higher, refilling of groups without signal, soft punishment of overlong answers (Yu et al. 2025).

    clip_low, clip_high  range of the probability ratio, below and above 1
    max_tokens           longest answer, in tokens
    buffer               tokens before max_tokens over which the punishment grows (default: a fifth, as in the paper)
    penalty              punishment at max_tokens
    filter_overlong      answers that ran into max_tokens are not trained on
    minibatches          optimiser steps on each batch
    """
    rising = max(1, max_tokens // 5) if buffer is None else buffer
    return post_train(
        lambda policy: method(
            policy, clip_low=clip_low, clip_high=clip_high, max_tokens=max_tokens, buffer=rising, penalty=penalty,
            filter_overlong=filter_overlong, minibatches=minibatches,
        ),
        name="dapo", max_tokens=max_tokens, **options,
    )  # fmt: skip
