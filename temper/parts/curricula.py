"""Which tasks are played next. A curriculum is pulled, never prefetched, and observes every group once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper import streams
from temper.carrier import Batch
from temper.columns import REWARD, TASK, Column
from temper.errors import UserError
from temper.request import Request
from temper.tasks.task import Task


@dataclass
class Shuffled:
    """Every task once an epoch, in an order that is a function of (seed, epoch)."""

    tasks: Sequence[Task]
    attempts: int = 8
    seed: int = 0
    also: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not len(self.tasks):
            raise UserError("there are no tasks to train on: the data is empty")
        self.drawn = 0
        self._order: tuple[int, Any] = (-1, None)

    def next(self, n: int) -> list[Request]:
        out = []
        for _ in range(n):
            epoch, place = divmod(self.drawn, len(self.tasks))
            if self._order[0] != epoch:
                self._order = (epoch, streams.generator(self.seed, "shuffled", epoch).permutation(len(self.tasks)))
            out.append(Request(self.tasks[int(self._order[1][place])], self.attempts, also=self.also))
            self.drawn += 1
        return out

    def observe(self, group: Batch) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.drawn = saved["drawn"]


@dataclass
class Generated:
    """Tasks without end, made when they are asked for: `make(k)` is the k-th."""

    make: Callable[[int], Task]
    attempts: int = 1

    def __post_init__(self) -> None:
        self.made = 0

    def next(self, n: int) -> list[Request]:
        self.made += n
        return [Request(self.make(k), self.attempts) for k in range(self.made - n, self.made)]

    def observe(self, group: Batch) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.made = saved["made"]


@dataclass
class Mixture:
    """Several curricula in fixed shares: the k-th request goes to the one that is furthest behind its share."""

    parts: Sequence[tuple[float, Any]]

    def __post_init__(self) -> None:
        self.given = [0] * len(self.parts)
        self._owner: dict[str, list[int]] = {}  # task id -> parts that asked for it and have not heard yet

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys(c for _, part in self.parts for c in getattr(part, "reads", ())))

    @property
    def metrics(self) -> dict[str, float]:
        return {k: v for _, part in self.parts for k, v in (getattr(part, "metrics", None) or {}).items()}

    @property
    def attempts(self) -> int | None:
        sizes = {getattr(c, "attempts", None) for _, c in self.parts}
        return sizes.pop() if len(sizes) == 1 else None

    def next(self, n: int) -> list[Request]:
        total = sum(w for w, _ in self.parts)
        out: list[Request] = []
        for _ in range(n):
            behind = [(w / total) * (sum(self.given) + 1) - g for (w, _), g in zip(self.parts, self.given)]
            i = behind.index(max(behind))
            request = self.parts[i][1].next(1)[0]
            self.given[i] += 1
            self._owner.setdefault(request.task.id, []).append(i)
            out.append(request)
        return out

    def observe(self, group: Batch) -> None:
        asking = self._owner.get(group[TASK][0].id, [])
        if asking:
            self.parts[asking.pop(0)][1].observe(group)
        if not asking:
            self._owner.pop(group[TASK][0].id, None)

    def state_dict(self) -> dict[str, Any]:
        owner = {task: list(parts) for task, parts in self._owner.items()}
        return {"given": list(self.given), "owner": owner, "parts": [_state(c) for _, c in self.parts]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.given, self._owner = list(saved["given"]), {task: list(parts) for task, parts in saved["owner"].items()}
        for (_, c), s in zip(self.parts, saved["parts"]):
            if hasattr(c, "load_state_dict"):
                c.load_state_dict(s)


@dataclass
class Growing:
    """Levels of tasks, easiest first; a level opens when the mean reward of the hardest open one reaches `bar`.

    levels   level -> the k-th task of it (tasks are made when they are asked for)
    window   groups of the hardest open level that the mean is taken over
    hardest  share of requests that go to the hardest open level; the rest are dealt evenly over the others
    """

    make: Callable[[int, int], Task]
    levels: int
    attempts: int = 8
    bar: float = 0.7
    window: int = 32
    hardest: float = 0.5
    seed: int = 0
    reads = (REWARD,)

    def __post_init__(self) -> None:
        self.open = 1
        self.made = 0
        self.recent: list[float] = []
        self._level: dict[str, int] = {}

    @property
    def metrics(self) -> dict[str, float]:
        return {"curriculum/open_levels": float(self.open)}

    def next(self, n: int) -> list[Request]:
        out = []
        for _ in range(n):
            rng = streams.generator(self.seed, "growing", self.made)
            top = self.open == 1 or rng.random() < self.hardest
            level = self.open - 1 if top else int(rng.integers(0, self.open - 1))
            task = self.make(level, self.made)
            self._level[task.id] = level
            self.made += 1
            out.append(Request(task, self.attempts))
        return out

    def observe(self, group: Batch) -> None:
        if self._level.pop(group[TASK][0].id, -1) != self.open - 1:
            return
        mean = float(group[REWARD].nanmean())
        if math.isnan(mean):  # nobody judged it
            return
        self.recent = [*self.recent, mean][-self.window :]
        if len(self.recent) == self.window and sum(self.recent) / self.window >= self.bar and self.open < self.levels:
            self.open, self.recent = self.open + 1, []

    def state_dict(self) -> dict[str, Any]:
        return {"open": self.open, "made": self.made, "recent": list(self.recent), "level": dict(self._level)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.open, self.made, self.recent = saved["open"], saved["made"], list(saved["recent"])
        self._level = dict(saved["level"])


def _state(part: Any) -> Any:
    return part.state_dict() if hasattr(part, "state_dict") else {}
