"""TreePO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from temper.envs.branching import Branching, Cut, Order, Share
from temper.envs.single import SingleTurn
from temper.methods.rollouts.treepo import treepo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name", "attempts", "system", "prefill"))
def treepo(
    width: int = 16,
    segment: int = 4,
    depth: int = 16,
    branching: int = 2,
    first: int = 0,
    tokens: int = 0,
    share: Share = "even",
    tau: float = 1.0,
    cut: Cut = "random",
    order: Order = "ended",
    credit: Literal["subtree", "segment"] = "subtree",
    weigh: Literal["equal", "size"] = "equal",
    drop_silent: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    buffer: int | None = None,
    penalty: float = 1.0,
    minibatches: int = 1,
    groups: int = 16,
    max_tokens: int = 64,
    **options: Any,
) -> Run:
    """Answers grow as a tree and share their beginnings (2025); evaluated with one plain answer an attempt.

    width        answers of a tree, compared with one another
    segment      tokens of a segment (the paper: 512); depth: most segments of an answer (14)
    branching    forks behind a segment; first: up to so many first segments, at random (0: as branching; the paper: 8)
    tokens       sampled for a tree beyond which nothing is forked (0: no limit)
    share        of forks: even, or more behind unlikely or likely beginnings; tau: how even
    cut          where finished answers are cut back when the tree is too narrow; order: which of them first
    credit       against the mean of every subtree, or segment by segment
    weigh        subtrees equally or by size; drop_silent: not those whose answers all score the same
    clip_low     range of the probability ratio below 1; clip_high: above 1; dual_clip: bound where A is negative
    buffer       tokens before the longest answer over which a punishment grows (default: a fourteenth, as in the paper)
    penalty      punishment of the longest answer
    minibatches  optimiser steps on each batch (the paper: 16)
    groups       trees in a step
    max_tokens   longest answer, in tokens
    """
    tree = Branching(
        width, segment, depth, branching, first, min(max_tokens, depth * segment), tokens, share, tau=tau, cut=cut,
        order=order,
    )  # fmt: skip
    run = post_train(
        lambda policy: method(
            policy, tree=tree, credit=credit, weigh=weigh, drop_silent=drop_silent, clip_low=clip_low,
            clip_high=clip_high, dual_clip=dual_clip, buffer=buffer, penalty=penalty, minibatches=minibatches,
        ),
        name="treepo", attempts=1, groups=groups, max_tokens=max_tokens, **options,
    )  # fmt: skip
    run.probes = [replace(p, env=SingleTurn()) for p in run.probes]
    return run
