"""Thinking in chunks of bounded context, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.envs.chunked import Chunked
from temper.methods.rollouts.markovian_thinker_delethink import markovian_thinker_delethink as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name", "max_tokens", "system", "prefill"))
def markovian_thinker_delethink(
    chunk: int = 16,
    carry: int = 8,
    head: int = 2,
    chunks: int = 6,
    clip_low: float = 0.2,
    clip_high: float = 0.26,
    cap: float = 2.0,
    ternary: bool = False,
    bonus: float = 0.0,
    minibatches: int = 2,
    steps: int = 40,
    groups: int = 16,
    attempts: int = 8,
    lr: float = 3e-4,
    **options: Any,
) -> Run:
    """Chunks that start from the question and a few carried tokens (Delethink, 2025).

    chunk        tokens of a chunk with what is carried into it (the paper: 8192)
    carry        tokens carried over (4096); head: of these, from the beginning of the trace (100)
    chunks       most chunks of a trace (5)
    clip_low     range of the probability ratio below 1; clip_high: above 1
    cap          of the weights that correct for the sampler
    ternary      reward +1 or −1, and 0 for a trace that was cut off
    bonus        reward for every chunk (the paper's option: 0.02)
    minibatches  optimiser steps on each batch
    groups       tasks in a step
    attempts     traces of each task, compared with one another
    lr           peak learning rate
    """
    env = Chunked(chunk, carry, head, chunks)
    return post_train(
        lambda policy: method(
            policy, env=env, clip_low=clip_low, clip_high=clip_high, cap=cap, ternary=ternary, bonus=bonus,
            minibatches=minibatches,
        ),
        name="markovian-thinker-delethink", steps=steps, groups=groups, attempts=attempts, lr=lr, **options,
    )  # fmt: skip
