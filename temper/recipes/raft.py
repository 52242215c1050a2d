"""RAFT on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.raft import raft as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def raft(threshold: float = 0.0, **options: Any) -> Run:
    """Imitation of one's own rewarded answers (Dong et al. 2023).

    threshold  answers with a reward above it are imitated
    """
    return post_train(lambda policy: method(policy, threshold=threshold), name="raft", **options)
