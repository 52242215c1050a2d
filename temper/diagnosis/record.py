"""A run's records as series, and the statements that are made of them. Standard library only: the page uses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol

Point = tuple[int, float]  # (step, value)


class Absent(LookupError):
    """The run did not record what a rule needs; its argument says what."""


@dataclass(frozen=True)
class Finding:
    """One statement about a run.

    name      of the pathology; level: "alarm" (training is harmed) or "note" (worth knowing)
    sentence  what happened, with figures; lever: what to do, options and parts in backticks
    value     what was compared with `limit`; steps: first and last that the statement is about
    samples   what it rests on, in words ("2,400 answers"); chart: the metric to look at
    also      names of findings that this one explains, and which are therefore not stated on their own
    """

    name: str
    level: str
    sentence: str
    lever: str
    value: float
    limit: float
    steps: tuple[int, int]
    samples: str
    chart: str
    also: tuple[str, ...] = ()


class Pathology(Protocol):
    """A rule: a finding where it fires, None where it does not; Absent where the record does not tell.

    The docstring says why the limit is where it is. `explains` names pathologies that follow from this one.
    """

    name: ClassVar[str]
    lever: ClassVar[str]
    explains: ClassVar[tuple[str, ...]]

    def __call__(self, r: Record) -> Finding | None: ...


@dataclass
class Window:
    """The values of some consecutive steps."""

    points: Sequence[Point]

    @property
    def mean(self) -> float:
        return sum(v for _, v in self.points) / len(self.points)

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 for one value."""
        n, m = len(self.points), self.mean
        return math.sqrt(sum((v - m) ** 2 for _, v in self.points) / (n - 1) / n) if n > 1 else 0.0

    @property
    def surely(self) -> float:
        """The end of the mean's 95 % interval that is nearer to 0; 0 where the interval holds it."""
        return math.copysign(max(0.0, abs(self.mean) - quantile(len(self.points) - 1) * self.error), self.mean)

    @property
    def median(self) -> float:
        v = sorted(x for _, x in self.points)
        return (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2

    @property
    def least(self) -> float:
        return min(v for _, v in self.points)

    @property
    def most(self) -> float:
        return max(v for _, v in self.points)

    @property
    def steps(self) -> tuple[int, int]:
        return self.points[0][0], self.points[-1][0]


@dataclass
class Record:
    """rows: the objects of metrics.jsonl; run, summary: those of run.json and summary.json, as far as there are any.

    A window is a quarter of the steps, at least 3 and at most 50. A rule about a trend needs TREND steps.
    """

    rows: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trained = [r for r in self.rows if (r.get("step") or 0) > 0]
        self.width = max(3, min(50, len(self.trained) // 4))

    def points(self, key: str, rows: Iterable[Mapping[str, Any]] | None = None) -> list[Point]:
        """(step, value) of every training step that has the number."""
        found = ((r["step"], r.get(key)) for r in (self.trained if rows is None else rows))
        return [(s, float(v)) for s, v in found if isinstance(v, (int, float)) and math.isfinite(v)]

    def last(self, key: str) -> Window:
        """The last window. Absent for fewer than 3 values."""
        return Window(self._enough(key, 3)[-self.width :])

    def first(self, key: str) -> Window:
        """The first 3 steps, or a tenth of a long run's. Absent for runs too short for a trend."""
        return Window(self._enough(key, TREND)[: max(3, min(20, len(self.trained) // 10))])

    def quarters(self, key: str) -> list[Window]:
        """Four windows that cover the run. Absent for runs too short for a trend."""
        p = self._enough(key, TREND)
        cuts = [i * len(p) // 4 for i in range(5)]
        return [Window(p[a:b]) for a, b in pairwise(cuts)]

    def keys(self, prefix: str) -> list[str]:
        return sorted({k for r in self.trained for k in r if k.startswith(prefix)})

    def answers(self, steps: tuple[int, int]) -> str:
        """How many answers were sampled in these steps, in words."""
        n = sum(self.size(r) for r in self.trained if steps[0] <= r["step"] <= steps[1])
        return f"{n:,} answers" if n else f"{steps[1] - steps[0] + 1} steps"

    @staticmethod
    def size(row: Mapping[str, Any]) -> int:
        """Trajectories of a step; of old records the counts of their histogram."""
        return int(row.get("trajectories") or sum((row.get("hist/length") or {}).get("counts") or ()))

    def improved(self, key: str, a: Window, b: Window) -> bool:
        """Whether the mean of `key` rose between the steps of two windows by more than its 95 % interval.

        The quantile is Student's, about 2 for long windows: three steps say little.
        """
        p = self.points(key)
        early, late = (Window([x for x in p if w.steps[0] <= x[0] <= w.steps[1]]) for w in (a, b))
        if not early.points or not late.points:
            return False
        freedom = len(early.points) + len(late.points) - 2
        return late.mean - early.mean > quantile(freedom) * math.hypot(early.error, late.error)

    def _enough(self, key: str, n: int) -> list[Point]:
        p = self.points(key)
        if len(p) < n:
            raise Absent(key if not p else f"{n} steps with {key}")
        return p


def quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.2 from two degrees of freedom on."""
    n = max(1, freedom)
    return 1.96 + 2.4 / n + 4.0 / n**2


TREND = 8  # steps that a statement about a trend needs


def attempt(rule: Callable[[Record], Finding | None], r: Record) -> Finding | Absent | None:
    """What the rule says; the Absent where it cannot say anything."""
    try:
        return rule(r)
    except Absent as absent:
        return absent


def span(steps: tuple[int, int]) -> str:
    """ "steps 51–60"."""
    return f"step {steps[0]}" if steps[0] == steps[1] else f"steps {steps[0]}–{steps[1]}"


def share(x: float) -> str:
    return f"{100 * x:.0f} %" if x >= 0.095 or x == 0 else f"{100 * x:.1f} %"


def figure(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"
