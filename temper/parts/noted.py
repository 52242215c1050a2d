"""What environments note about held-out plays: means of the numbers in a trajectory's info, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from temper.columns import INFO, ROLE
from temper.errors import UserError
from temper.request import Request
from temper.tasks.task import Task

if TYPE_CHECKING:
    from temper.run import Run


def means(infos: Sequence[Any]) -> dict[str, float]:
    """The mean of every number in trajectories' infos, over those that have it."""
    values: dict[str, list[float]] = {}
    for info in infos:
        for key, x in (info or {}).items():
            if isinstance(x, (int, float)):
                values.setdefault(key, []).append(float(x))
    return {key: sum(x) / len(x) for key, x in values.items()}


@dataclass
class Noted:
    """Plays every task `attempts` times, at the start, the end and every `every` steps; nothing is judged.

    role  whose trajectories count (None: every role's)
    seed  of its random streams, the same every time: attempts are paired over time
    """

    tasks: Sequence[Task]
    attempts: int = 1
    every: int = 0
    name: str = "noted"
    role: str | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not len(self.tasks) or self.attempts < 1:
            raise UserError("there is nothing to play: a probe needs tasks, and at least 1 attempt at each")
        if self.every < 0:
            raise UserError(f"eval_every must not be negative, got {self.every}")
        self.results: dict[str, dict[str, float]] = {}

    def due(self, step: int, steps: int) -> bool:
        return step in (0, steps) or bool(self.every and step % self.every == 0)

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        from temper.loop import attempts, together

        if not self.due(step, run.steps):
            return {}
        requests = [Request(t, self.attempts, id=f"{i}:{t.id}", split=self.name) for i, t in enumerate(self.tasks)]
        counts, run.counts = run.counts, {}
        with run.timed("evaluation"):
            groups = await together(attempts(run, r, self.seed) for r in requests)
        run.counts = counts
        found = means([
            info for b in groups if b is not None for info, role in zip(b[INFO], b[ROLE]) if self.role in (None, role)
        ])  # fmt: skip
        for when in [w for w, s in (("before", 0), ("after", run.steps)) if s == step]:
            self.results[when] = found
        return {f"{self.name}/{key}": value for key, value in found.items()}

    def comparison(self) -> dict[str, Any]:
        """What summary.json says."""
        return {self.name: self.results}

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.results = saved["results"]
