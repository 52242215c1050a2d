"""OPO on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.opo import opo as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def opo(**options: Any) -> Run:
    """The variance-minimal baseline, exactly on policy (Hao et al. 2025)."""
    return post_train(method, name="opo", **options)
