"""Prompts that grow in phases, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.qwenlong_l1 import qwenlong_l1 as method
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train
from temper.rewards.load import rewards_from
from temper.run import Run


@extends(post_train, without=("method", "name"))
def qwenlong_l1(
    caps: tuple[int, ...] = (),
    phase: int = 20,
    retrospective: float = 0.25,
    data: str = SUITE,
    reward: tuple[str, ...] = (),
    groups: int = 16,
    max_tokens: int = 128,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """DAPO whose prompts grow, with the larger of several rewards (QwenLong-L1, Wan et al. 2025).

    caps           longest prompt of each phase, in characters, rising (default: all prompts at once)
    phase          steps of a phase; the last one goes on
    retrospective  share of hard tasks of earlier phases
    reward         FILE.py:function, package.module:function or a bundled name; the largest counts
    groups         tasks in a step
    max_tokens     longest answer, in tokens
    minibatches    optimiser steps on each batch
    """
    names = tuple(r.name for r in rewards_from(reward)) if len(reward) > 1 else ()
    return post_train(
        lambda policy: method(
            policy, parts=names, caps=caps, requests=phase * groups, retrospective=retrospective,
            max_tokens=max_tokens, buffer=max(1, max_tokens // 5), minibatches=minibatches,
        ),
        name="qwenlong-l1", data=data, reward=reward, groups=groups, max_tokens=max_tokens, **options,
    )  # fmt: skip
