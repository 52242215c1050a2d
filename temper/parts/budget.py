"""Attempts dealt out by what they are worth: a pass of probes over a pool of tasks, then an exact allocation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import REWARD, SPLIT, TASK, TRAJECTORY, Column
from temper.errors import UserError
from temper.parts.curricula import Shuffled
from temper.parts.gates import settled
from temper.parts.score_norms import GRADIENT_NORM, GradientNorms
from temper.request import Request
from temper.tasks.task import Task

PROBE = "probe"


def worth(norm: float, accepted: float, alpha: float = 1e-3, beta: float = 2.0) -> float:
    """G/√(p + α/p^(β−1)) of a task; 0 where p or G is 0 (Yao et al. 2025, arXiv 2505.02391).

    α = 0 is the rule that minimises Σ G²/(p n) under Σ n = N; α > 0 keeps tasks with p → 0 from taking everything.
    """
    if accepted <= 0 or not norm > 0:
        return 0.0
    return norm / math.sqrt(accepted + alpha / accepted ** (beta - 1))


def allocate(worths: Sequence[float], total: int, least: int = 0) -> list[int]:
    """`total` attempts in proportion to `worths`, in whole numbers that add up to it: the largest remainders round up.

    least  what a task gets that gets anything; where that is too much for all, the tasks worth least get none
    All zeros where no task is worth anything.
    """
    w = settled(torch.tensor(worths, dtype=torch.float64)).tolist()
    alive = sorted((i for i, x in enumerate(w) if x > 0), key=lambda i: -w[i])
    alive = alive[: total // least] if least else alive
    given = [0] * len(w)
    if not alive:
        return given
    free, left = alive, total
    while low := [i for i in free if w[i] * left < least * sum(w[j] for j in free)]:
        for i in low:
            given[i] = least
        free, left = [i for i in free if not given[i]], left - least * len(low)
    shares = {i: w[i] * left / sum(w[j] for j in free) for i in sorted(free)}
    given = [math.floor(shares[i] + 1e-9) if i in shares else n for i, n in enumerate(given)]
    rest = dict(zip(shares, settled(torch.tensor([given[i] - x for i, x in shares.items()])).tolist()))
    for i in sorted(shares, key=lambda i: rest[i])[: total - sum(given)]:
        given[i] += 1
    return given


@dataclass
class ProbeNorms:
    """GRADIENT_NORM of the accepted attempts of probes, with a backward pass each; NaN of all others.

    threshold  rewards above it are accepted
    """

    norms: GradientNorms
    threshold: float = 0.0
    kind = "features"
    reads = (REWARD,)
    uses = (SPLIT, *GradientNorms.uses)
    writes = (GRADIENT_NORM,)

    async def __call__(self, b: Batch) -> Batch:
        probe = torch.tensor([b[SPLIT][g] == PROBE for g in b.structure.group.tolist()], dtype=torch.bool)
        keep = probe & (b[REWARD] > self.threshold)
        out = torch.full((b.size(TRAJECTORY),), torch.nan)
        if bool(keep.any()):
            out[keep] = (await self.norms(b.select(keep)))[GRADIENT_NORM]
        return b.put(GRADIENT_NORM, out)


@dataclass(frozen=True)
class NoProbe:
    """Signal of a group: no probe has any; others as `then` says (None: all)."""

    then: Callable[[Batch], bool] | None = None
    uses = (SPLIT,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(getattr(self.then, "reads", ()))

    def __call__(self, b: Batch) -> bool:
        return b[SPLIT][0] != PROBE and (self.then is None or self.then(b))


@dataclass
class Budgeted:
    """Pools of `pool` shuffled tasks: each is probed, then `attempts`·pool attempts are dealt out over it by `worth`.

    A task's p is the share of its judged probes with a reward above `threshold`, its G the mean GRADIENT_NORM of those.
    Probes (requests of the split "probe") are not trained on. A pool of which no probe is accepted is passed over.

    least    attempts of a task that gets any: 2 where answers are compared with one another
    ceiling  tasks with a larger p get nothing; enough: nor do those with fewer expected accepted attempts
    """

    tasks: Sequence[Task]
    attempts: int = 8
    seed: int = 0
    pool: int = 72
    probes: int = 8
    alpha: float = 1e-3
    beta: float = 2.0
    threshold: float = 0.0
    least: int = 0
    ceiling: float = 1.0
    enough: float = 0.0
    reads = (REWARD, GRADIENT_NORM)

    def __post_init__(self) -> None:
        for name in ("attempts", "pool", "probes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.order = Shuffled(self.tasks, self.probes, self.seed)
        self.asked = self.planned = 0  # tasks probed; pools dealt out
        self.waiting: dict[int, str] = {}  # place in the order → task id
        self.found: dict[int, tuple[float, float]] = {}  # place → (p, G)
        self.queue: list[tuple[int, int]] = []  # (place, attempts) to train on
        self.metrics: dict[str, float] = {}

    def next(self, n: int) -> list[Request]:
        while not self.queue and self._deal():
            pass
        if self.queue:
            mine, self.queue = self.queue[:n], self.queue[n:]
            return [Request(self._task(k), m) for k, m in mine]
        places = range(self.asked, self.asked + min(n, self.pool - self.asked % self.pool))
        requests = [Request(self._task(k), self.probes, split=PROBE) for k in places]
        self.waiting |= {k: r.task.id for k, r in zip(places, requests)}
        self.asked = places.stop
        return requests

    def _task(self, place: int) -> Task:
        self.order.drawn = place
        return self.order.next(1)[0].task

    def _deal(self) -> bool:
        """Deal out the next pool. False while probes of it are out; once another pool is asked too, they are lost."""
        places = range(self.planned * self.pool, (self.planned + 1) * self.pool)
        lost = self.asked >= places.stop + self.pool
        if self.asked < places.stop or (not lost and any(k in self.waiting for k in places)):
            return False
        seen = [self.found.pop(k, (0.0, 0.0)) for k in places]
        self.waiting = {k: name for k, name in self.waiting.items() if k >= places.stop}
        given = self.dealt(seen)
        self.queue = [(k, m) for k, m in zip(places, given) if m]
        self.planned += 1
        self.metrics = {
            "budget/accepted": sum(p for p, _ in seen) / self.pool,
            "budget/tasks": len(self.queue) / self.pool,
            "budget/largest": float(max(given)),
        }
        return True

    def dealt(self, seen: Sequence[tuple[float, float]]) -> list[int]:
        """Attempts of every task, from (p, G) of each."""
        total = self.attempts * len(seen)
        w = [worth(g, p, self.alpha, self.beta) if p <= self.ceiling else 0.0 for p, g in seen]
        if self.enough > 0 and sum(w) > 0:
            w = [x if p * x / sum(w) * total >= self.enough else 0.0 for x, (p, _) in zip(w, seen)]
        return allocate(w, total, self.least)

    def observe(self, group: Batch) -> None:
        if group[SPLIT][0] != PROBE:
            return
        name = group[TASK][0].id
        place = next((k for k in sorted(self.waiting) if self.waiting[k] == name), None)
        if place is None:  # too late: its pool is dealt out
            return
        del self.waiting[place]
        r, norm = group[REWARD], group[GRADIENT_NORM]
        judged, accepted = ~r.isnan(), r > self.threshold
        g = float(norm[accepted].nanmean()) if bool(accepted.any()) else 0.0
        self.found[place] = (float(accepted.sum()) / max(int(judged.sum()), 1), g if g == g else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked, "planned": self.planned, "waiting": dict(self.waiting),
            "found": {k: list(x) for k, x in self.found.items()}, "queue": [list(x) for x in self.queue],
            "metrics": dict(self.metrics),
        }  # fmt: skip

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.asked, self.planned, self.waiting = saved["asked"], saved["planned"], dict(saved["waiting"])
        self.found = {k: (p, g) for k, (p, g) in saved["found"].items()}
        self.queue, self.metrics = [(k, m) for k, m in saved["queue"]], dict(saved["metrics"])
