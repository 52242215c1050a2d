"""A node of a swarm: its own tasks, and other nodes' answers as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.gateway.exchange import Exchange
from temper.methods.rollouts.sapo_swarm import sapo_swarm as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def sapo_swarm(
    meet: Path | None = None,
    node: str = "a",
    nodes: int = 4,
    groups: int = 4,
    external: int = 4,
    attempts: int = 8,
    wait: float = 600.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Nodes that train models of their own exchange answers as text (2025). Start one for each name, with one folder.

    meet       a folder where nodes find one another (default: this node is alone)
    node       its name
    nodes      how many there are
    groups     tasks of its own in a step
    external   groups of others that join them, at most
    attempts   answers to each task
    wait       seconds that a round waits for the others; for one that was silent a twentieth, until it is heard again
    clip_low   range of the probability ratio below 1; clip_high: above 1
    seed       of everything that is drawn
    """
    if nodes < 1:
        raise UserError(f"a swarm has at least one node, got {nodes}")
    exchange = None if meet is None else Exchange(meet, node, nodes, wait)
    return post_train(
        lambda policy, judges: method(
            policy, judges, external=external, exchange=exchange, clip_low=clip_low, clip_high=clip_high, seed=seed
        ),
        name="sapo-swarm", groups=groups, attempts=attempts, seed=seed, **options,
    )  # fmt: skip
