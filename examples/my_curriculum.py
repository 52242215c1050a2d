"""A curriculum in one file: the tasks whose rate of success is nearest to one half come first.

temper run examples/my_curriculum.py --steps 20 --memory 0.5
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temper.carrier import Batch
from temper.columns import REWARD, TASK
from temper.recipe import extends
from temper.recipes.grpo import grpo
from temper.request import Request
from temper.run import Run
from temper.tasks.task import Task


@dataclass
class NearHalf:
    """Rate of a task: a moving mean of its groups' mean reward; ½ before it was played, so all are tried."""

    tasks: Sequence[Task]
    attempts: int = 8
    memory: float = 0.7  # share of the old rate that is kept when a group lands
    pool: int = 256  # how many tasks are chosen among
    reads = (REWARD,)  # of the groups that it observes

    def __post_init__(self) -> None:
        self.state: dict[str, Any] = {"rate": {}, "asked": 0}

    def next(self, n: int) -> list[Request]:
        size, asked, rate = min(self.pool, len(self.tasks)), self.state["asked"], self.state["rate"]
        in_turn = sorted(range(size), key=lambda i: (i - asked) % size)  # so that ties are broken in turn
        pool = sorted((self.tasks[i] for i in in_turn), key=lambda task: abs(rate.get(task.id, 0.5) - 0.5))
        self.state["asked"] += n
        return [Request(task, self.attempts) for task in pool[:n]]

    def observe(self, group: Batch) -> None:
        name, mean, rate = group[TASK][0].id, float(group[REWARD].nanmean()), self.state["rate"]
        if mean == mean:  # not when nobody was judged
            rate[name] = self.memory * rate.get(name, 0.5) + (1 - self.memory) * mean

    def state_dict(self) -> dict[str, Any]:
        return {**self.state, "rate": dict(self.state["rate"])}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.state = {**saved, "rate": dict(saved["rate"])}


@extends(grpo)
def my_curriculum(memory: float = 0.7, **options: Any) -> Run:
    """GRPO on tasks that are neither too easy nor too hard.

    memory  share of a task's old rate of success that is kept when it is played again
    """
    run = grpo(**options)
    shuffled: Any = run.curriculum
    return replace(run, curriculum=NearHalf(shuffled.tasks, shuffled.attempts, memory))
