"""GPG on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any

from temper.methods.objectives.gpg import gpg as method
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run


@extends(post_train, without=("method", "name"))
def gpg(**options: Any) -> Run:
    """Plain policy gradient, corrected for groups without signal (Chu et al. 2025)."""
    return post_train(method, name="gpg", **options)
