"""Curricula over domains (`Task.source`) and over the length of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from temper import streams
from temper.carrier import Batch
from temper.columns import REWARD, TASK, TRAJECTORY
from temper.errors import UserError
from temper.parts.curricula import Mixture, Shuffled
from temper.request import Curriculum, Request
from temper.tasks.task import Task

GENERATED = 50_000  # tasks; so many are made when they are asked for


def balanced(tasks: Sequence[Task], attempts: int, seed: int) -> Curriculum:
    """Equal shares of every source, each in its own shuffled order, begun again when it is used up.

    Long generated sequences (a bundled suite) have their sources in turn already: they are only shuffled.
    """
    if len(tasks) > GENERATED:
        return Shuffled(tasks, attempts, seed)
    by_source: dict[str, list[Task]] = {}
    for task in tasks:
        by_source.setdefault(task.source, []).append(task)
    return Mixture([(1.0, Shuffled(mine, attempts, seed + n)) for n, mine in enumerate(by_source.values())])


@dataclass
class AdaptiveDomains:
    """A shuffled curriculum for each domain, asked so that finished rollouts keep to the targets.

    p_d ∝ w_d · clip(target_d/actual_d, 0.1, 10), actual_d the domain's share of finished attempts, after the first
    `after` (ServiceNow, PipelineRL). Draws are a function of (seed, requests so far).

    targets  {domain: share}; those that are not named share the rest evenly (none named: all alike)
    """

    tasks: Sequence[Task]
    attempts: int = 8
    seed: int = 0
    targets: Mapping[str, float] = field(default_factory=dict)
    after: int = 50

    def __post_init__(self) -> None:
        by: dict[str, list[Task]] = {}
        for task in self.tasks:
            by.setdefault(task.source, []).append(task)
        rest = [d for d in by if d not in self.targets]
        left = max(1.0 - sum(self.targets.get(d, 0.0) for d in by), 0.0)
        self.share = {d: self.targets[d] if d in self.targets else left / len(rest) for d in by}
        self.domains = {d: Shuffled(mine, self.attempts, self.seed) for d, mine in by.items()}
        self.finished, self.asked = dict.fromkeys(by, 0), 0

    def odds(self) -> dict[str, float]:
        """p_d, not yet summing to 1."""
        total = sum(self.finished.values())
        if total < self.after:
            return dict(self.share)
        ratio = {d: self.share[d] * total / n if n else 10.0 for d, n in self.finished.items()}
        return {d: w * min(max(ratio[d], 0.1), 10.0) for d, w in self.share.items()}

    def next(self, n: int) -> list[Request]:
        out, odds = [], self.odds()
        p = np.array(list(odds.values()))
        for _ in range(n):
            draw = streams.generator(self.seed, "domains", self.asked)
            self.asked += 1
            out += self.domains[str(draw.choice(list(odds), p=p / p.sum()))].next(1)
        return out

    def observe(self, group: Batch) -> None:
        self.finished[group[TASK][0].source] += group.size(TRAJECTORY)

    def state_dict(self) -> dict[str, Any]:
        inner = {d: c.state_dict() for d, c in self.domains.items()}
        return {"finished": dict(self.finished), "asked": self.asked, "domains": inner}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.finished, self.asked = dict(saved["finished"]), saved["asked"]
        for d, c in self.domains.items():
            c.load_state_dict(saved["domains"][d])


@dataclass
class Phased:
    """Tasks whose prompts fit the phase's cap, and hard ones of the phases before it.

    A phase lasts `requests` requests; the k-th admits prompts of at most caps[k] characters (the last phase goes on).
    From the second phase on a share `retrospective` of the requests are tasks of earlier phases, drawn in proportion to
    1/mean reward (QwenLong-L1, arXiv 2505.17667). Longer prompts than the last cap never appear: cutting them from the
    middle would change what can be answered. Memory: mean reward of every task that was played.
    """

    tasks: Sequence[Task]
    caps: tuple[int, ...]
    requests: int
    attempts: int = 8
    retrospective: float = 0.25
    seed: int = 0
    reads = (REWARD,)

    def __post_init__(self) -> None:
        if not self.caps or list(self.caps) != sorted(self.caps):
            raise UserError(f"the caps of the phases must rise, got {', '.join(map(str, self.caps)) or 'none'}")
        sizes = [sum(len(str(m.get("content") or "")) for m in t.messages) for t in self.tasks]
        self.phases = [
            [t for t, n in zip(self.tasks, sizes) if low < n <= high]
            for low, high in zip((-1, *self.caps[:-1]), self.caps)
        ]
        if not self.phases[0]:
            raise UserError(f"no prompt has at most {self.caps[0]} characters, the cap of the first phase")
        self.orders = [Shuffled([t for p in self.phases[: k + 1] for t in p], self.attempts, self.seed + k)
                       for k in range(len(self.caps))]  # fmt: skip
        self.asked, self.means = 0, dict[str, float]()
        self._by_id = {t.id: t for p in self.phases for t in p}

    @property
    def phase(self) -> int:
        return min(self.asked // self.requests, len(self.caps) - 1)

    @property
    def metrics(self) -> dict[str, float]:
        return {"curriculum/phase": float(self.phase)}

    def next(self, n: int) -> list[Request]:
        out = []
        for _ in range(n):
            draw = streams.generator(self.seed, "phased", self.asked)
            old = self._carried(self.phase)
            if old and draw.random() < self.retrospective:
                weights = np.array([1 / max(self.means[i], 0.05) for i in old])
                task = self._by_id[old[int(draw.choice(len(old), p=weights / weights.sum()))]]
                out.append(Request(task, self.attempts))
            else:
                out += self.orders[self.phase].next(1)
            self.asked += 1
        return out

    def _carried(self, phase: int) -> list[str]:
        """Tasks of earlier phases that were not always solved."""
        early = {t.id for p in self.phases[:phase] for t in p}
        return [i for i, mean in self.means.items() if i in early and mean < 1]

    def observe(self, group: Batch) -> None:
        mean = float(group[REWARD].nanmean())
        if mean == mean:
            self.means[group[TASK][0].id] = mean

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "means": dict(self.means), "orders": [o.state_dict() for o in self.orders]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.asked, self.means = saved["asked"], dict(saved["means"])
        for order, state in zip(self.orders, saved["orders"]):
            order.load_state_dict(state)
