"""GRPO with samplers that go on while a step is trained, as far as one number allows."""

from __future__ import annotations

from typing import Any

from temper.methods.rollouts.relax import relax as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run
from temper.sync import Name


@extends(post_train, without=("method", "name", "ahead"))
def relax(
    staleness: int = 1,
    sync: Name = "resume",
    cap: float = 2.0,
    clip: float = 0.2,
    groups: int = 8,
    attempts: int = 8,
    **options: Any,
) -> Run:
    """Asynchronous GRPO: streamed on-policy at staleness 0, one step off at 1, partly off-policy above (2026).

    staleness  how many updates old the weights that sampled a token may be
    sync       how samplers with weights of their own (--backend ray) change them: blocking, delayed, staggered,
               episodes, or resume (answers are cut, and go on under the new weights)
    cap        of importance weights, from staleness 2 on
    clip       range of the probability ratio
    groups     tasks in a step
    attempts   answers to each task
    """

    def make(policy: Any) -> Any:
        return method(policy, staleness=staleness, cap=cap, clip=clip)

    run = post_train(make, name="relax", ahead=staleness, sync=sync, groups=groups, attempts=attempts, **options)
    run.streamed = True
    return run
