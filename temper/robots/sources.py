"""Two sources of decisions, mixed by how badly each is predicted (SOP, arXiv 2601.03044)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper import streams
from temper.carrier import Batch
from temper.columns import ALLOWED, LOGP, SUPPORT, TASK, TEMPERATURE, TOKEN, TRAJECTORY
from temper.parts.logprobs import OLD
from temper.request import Request
from temper.robots.storage import Step
from temper.tasks.task import Task

ONLINE, OFFLINE = "online", "offline"


def share(online: float, offline: float, alpha: float, low: float, high: float) -> float:
    """ω = e^(α·l_on) / (e^(α·l_on) + e^(l_off)), within [low, high]; a loss that is NaN (no losses yet) gives `low`."""
    if math.isnan(online) or math.isnan(offline):
        return low
    return min(max(1 / (1 + math.exp(min(offline - alpha * online, 700.0))), low), high)


@dataclass
class TwoSources:
    """A curriculum of decisions: a task uniformly, online with probability ω of the task, then a decision uniformly.

    offline  decisions by task; fleet: `new()` gives episodes, of which the expert's steps are learned (HG-DAgger)
    alpha, window, low, high   see `share`; fixed: ω for every task (None: by the losses)
    """

    offline: Mapping[str, Sequence[Step]]
    fleet: Any
    alpha: float = 2.0
    window: int = 50
    low: float = 0.2
    high: float = 0.8
    fixed: float | None = None
    seed: int = 0
    attempts = 1

    def __post_init__(self) -> None:
        self.online: dict[str, list[Step]] = {task: [] for task in self.offline}
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.drawn = self.step = 0

    def next(self, n: int) -> list[Request]:
        for episode in self.fleet.new():
            self.online.setdefault(episode.task, []).extend(s for s in episode.steps if s.by == "expert")
        return [self._draw() for _ in range(n)]

    def _draw(self) -> Request:
        rng = streams.generator(self.seed, "two sources", self.drawn)
        task = sorted(self.offline)[int(rng.integers(len(self.offline)))]
        source = ONLINE if self.online[task] and rng.random() < self.omega(task) else OFFLINE
        rows = self.online[task] if source == ONLINE else self.offline[task]
        step = rows[int(rng.integers(len(rows)))]
        self.drawn += 1
        return Request(Task(f"{task}/{self.drawn}", step.prompt, step.move, f"{task}/{source}"), 1)

    def omega(self, task: str) -> float:
        if self.fixed is not None:
            return self.fixed
        return share(*(self.mean(f"{task}/{s}") for s in (ONLINE, OFFLINE)), self.alpha, self.low, self.high)

    def mean(self, source: str) -> float:
        """Of the losses of the last `window` steps; NaN where there are none."""
        fresh = [x for at, x in self.losses.get(source, ()) if at > self.step - self.window]
        return sum(fresh) / len(fresh) if fresh else math.nan

    def heard(self, losses: Mapping[str, float]) -> None:
        """The unweighted losses of this step by task and source."""
        self.step += 1
        for source, loss in losses.items():
            self.losses[source] = [*self.losses.get(source, ()), (self.step, loss)][-self.window :]

    def observe(self, group: Batch) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        online = {task: [[s.prompt, s.move, s.by] for s in steps] for task, steps in self.online.items()}
        losses = {k: [list(x) for x in v] for k, v in self.losses.items()}
        return {"online": online, "losses": losses, "drawn": self.drawn, "step": self.step}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.online = {task: [Step(*s) for s in steps] for task, steps in saved["online"].items()}
        self.losses = {k: [(int(a), float(x)) for a, x in v] for k, v in saved["losses"].items()}
        self.drawn, self.step = saved["drawn"], saved["step"]


@dataclass
class Losses:
    """Tells the curriculum −log π of what is trained on, by task and source, before the update and without weights."""

    policy: Any
    sources: TwoSources
    metrics: dict[str, float] = field(default_factory=dict, init=False)
    reads = (TASK,)
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = (OLD,)

    async def __call__(self, b: Batch) -> Batch:
        b = self.policy.learner.read(b, {OLD: LOGP})
        loss = b.mean(-b[OLD], TOKEN, TRAJECTORY).tolist()
        by = dict[str, list[float]]()
        for x, group in zip(loss, b.structure.group.tolist()):
            by.setdefault(b[TASK][group].source, []).append(x)
        self.sources.heard({k: sum(v) / len(v) for k, v in by.items()})
        self.metrics = {f"sop/omega/{t}": self.sources.omega(t) for t in self.sources.offline}
        self.metrics |= {f"sop/online/{t}": float(len(rows)) for t, rows in self.sources.online.items()}
        return b
