"""Attempts where they lower the variance of the gradient most, on your own tasks or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.gvm_raft import gvm_raft as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def gvm_raft(
    form: Literal["raft++", "grpo"] = "raft++",
    phase: int = 8,
    probes: int = 8,
    block: str = "embed_tokens",
    alpha: float = 1e-3,
    power: float = 2.0,
    ceiling: float = 1.0,
    enough: float = 0.0,
    beta: float = 1e-3,
    clip: float = 0.2,
    groups: int = 16,
    attempts: int = 8,
    minibatches: int = 1,
    **options: Any,
) -> Run:
    """RAFT++ or GRPO with as many attempts at each task as its gradient is worth (GVM, Yao et al. 2025).

    form         what trains on the attempts
    phase        tasks that are probed at a time, in steps' worth of them
    probes       attempts at each of them that only tell how many it gets
    block        part of the names of the weights by which gradients are measured
    alpha        how far tasks that are hardly ever solved are held back; power: how steeply
    ceiling      tasks of which a larger share of probes is right get no attempts
    enough       nor do those of which fewer right attempts are expected
    beta         weight of the KL towards the starting weights (0: none, and no reference model)
    clip         range of the probability ratio
    groups       tasks in a step
    attempts     attempts at a task, on average
    minibatches  optimiser steps on each batch
    """

    def make(policy: Any) -> Any:
        return method(
            policy, form=form, pool=phase * groups, probes=probes, block=block, alpha=alpha, power=power,
            ceiling=ceiling, enough=enough, reference=policy.reference() if beta else None, beta=beta, clip=clip,
            minibatches=minibatches,
        )  # fmt: skip

    run = post_train(make, name="gvm-raft", groups=groups, attempts=attempts, **options)
    run.rounds = 3 * phase + 2  # a step may have to wait for two pools of probes
    return run
