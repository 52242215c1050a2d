"""ReMax on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.remax import remax as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def remax(**options: Any) -> Run:
    """A greedy answer to each task as its baseline (Li et al. 2023)."""
    return post_train(method, name="remax", **options)
