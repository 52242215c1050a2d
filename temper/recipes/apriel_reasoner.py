"""Shorter answers where tasks are easy, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.apriel_reasoner import apriel_reasoner as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def apriel_reasoner(
    domains: tuple[str, ...] = (),
    shares: tuple[float, ...] = (),
    buffer: int = 64,
    gamma: float = 1.0,
    failed: float = 1.0,
    clip: float = 0.2,
    max_tokens: int = 128,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """A length penalty that spares hard tasks, and domains that keep their shares (Apriel-Reasoner 2026).

    domains      sources of tasks whose share of finished rollouts is kept to; shares: one for each
    buffer       tokens before max_tokens in which the penalty rises from 0 to 1
    gamma        power of the solve rate on the penalty of right answers
    failed       factor of the penalty of wrong ones
    clip         range of the probability ratio (the paper: 0.02)
    max_tokens   longest answer, in tokens
    minibatches  optimiser steps on each batch
    """
    targets = dict(zip(domains, shares, strict=True)) if domains else None
    return post_train(
        lambda policy: method(
            policy, targets=targets, limit=max_tokens, buffer=buffer, gamma=gamma, failed=failed, clip=clip,
            minibatches=minibatches,
        ),
        name="apriel-reasoner", max_tokens=max_tokens, **options,
    )  # fmt: skip
