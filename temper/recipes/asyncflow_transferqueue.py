"""GRPO in the three steps of AsyncFlow's ladder: separated phases, streamed, streamed with delayed weights."""

from __future__ import annotations

from typing import Any

from temper.methods.rollouts.asyncflow_transferqueue import asyncflow_transferqueue as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run
from temper.sync import Name


@extends(post_train, without=("method", "name", "ahead"))
def asyncflow_transferqueue(
    staleness: int = 1,
    streamed: bool = True,
    sync: Name = "delayed",
    clip: float = 0.2,
    groups: int = 8,
    attempts: int = 8,
    **options: Any,
) -> Run:
    """GRPO over a bus, streamed on-policy at staleness 0, with delayed weights from 1 on (2025).

    staleness  how many updates old the weights that sampled a token may be
    streamed   at staleness 0, begin to train on groups as they land, not once all of a step's have
    sync       how samplers with weights of their own (--backend ray) change them: blocking, delayed (between answers),
               staggered, episodes or resume
    clip       range of the ratio to the recorded log-probs
    groups     tasks in a step
    attempts   answers to each task
    """

    def make(policy: Any) -> Any:
        return method(policy, clip=clip)

    name = "asyncflow-transferqueue"
    run = post_train(make, name=name, ahead=staleness, sync=sync, groups=groups, attempts=attempts, **options)
    run.streamed = streamed
    return run
