"""REINFORCE on your own tasks, or on the bundled suite."""

from __future__ import annotations

from typing import Any, Literal

from temper.methods.objectives.reinforce import reinforce as method
from temper.parts.advantages import Statistic, batch_mean, group_mean, leave_one_out, no_baseline
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run

BASELINES: dict[str, Statistic] = {
    "none": no_baseline, "batch": batch_mean, "group": group_mean, "others": leave_one_out
}  # fmt: skip


@extends(post_train, without=("method", "name"))
def reinforce(baseline: Literal["none", "batch", "group", "others"] = "none", **options: Any) -> Run:
    """The plain policy gradient (Williams 1992).

    baseline  what is subtracted from the reward: nothing, the mean of the batch, of the group, of the group's others
    """
    return post_train(lambda policy: method(policy, baseline=BASELINES[baseline]), name="reinforce", **options)
