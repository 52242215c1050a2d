"""What a published method adds to a run: stages, terms and rollout requests, as values that compose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.carrier import Batch
from temper.objective import Term
from temper.request import Curriculum, Env
from temper.stage import Stage
from temper.tasks.task import Task


@dataclass
class Method:
    """A bundle of parts. A method's file has one function `slug(policy, *, hyper-parameters) -> Method`.

    on_group     stages for every group as it lands, after the rewards
    on_batch     stages for the whole batch, in order
    terms        summands of the objective of `policy`
    signal       group -> bool: does it count towards the batch? None: every group does. Groups without signal stay in
                 the batch only when `keep_silent`
    greedy       also play one greedy attempt per task (ReMax)
    epochs, minibatches  see Update
    policies     further policies that it needs (a reference, a teacher), by name
    env          the rollout topology that it is about (None: any)
    curriculum   (tasks, attempts, seed) -> how tasks are drawn (None: every task once an epoch, shuffled)
    """

    on_group: list[Stage] = field(default_factory=list)
    on_batch: list[Stage] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    signal: Callable[[Batch], bool] | None = None
    keep_silent: bool = False
    greedy: bool = False
    epochs: int = 1
    minibatches: int = 1
    before: list[Callable[..., None]] = field(default_factory=list)
    after: list[Callable[..., None]] = field(default_factory=list)
    policies: dict[str, Any] = field(default_factory=dict)
    env: Env | None = None
    curriculum: Callable[[Sequence[Task], int, int], Curriculum] | None = None
