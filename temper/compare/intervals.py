"""Paired differences of two methods over the same seeds and the same held-out tasks, and what they allow to say.

A difference has two errors: which seeds, and which tasks. Each is bootstrapped with the other as it is (the seeds'
scaled by n/(n−1), because they are few), taken times its own quantile of Student's t, and both are added as squares.

Three seeds have two degrees of freedom, and little can be told from them alone. Where several arms were run, the spread
over seeds is therefore the larger of the pair's own and that of all arms together, with the degrees of freedom of all
(`Spread`). This takes for granted that runs of different arms spread alike; an arm that clearly spreads more (F test)
is judged by its own seeds. In simulations of equal methods (studies/coverage.py) 3.5 to 5 % of 95 % intervals miss the
truth; for one arm among twelve that spreads three times as much as the others, 12.5 % of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper import streams

RESAMPLES = 4000


@dataclass(frozen=True)
class Difference:
    """mean: of pass@1, over sources, tasks and seeds; p: two-sided; holm: p corrected over what was compared.

    low and high are None, and p is 1, where there is one seed: it says nothing about others.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    seeds: int
    holm: float = 1.0

    @property
    def told_apart(self) -> bool:
        return self.holm < 0.05


@dataclass(frozen=True)
class Spread:
    """How runs scatter around their arm and their seed, over all arms.

    one      standard deviation of a run; degrees: of freedom, (arms − 1) · (seeds − 1)
    unlike   arms whose own runs scatter more than the others' (F test, 5 % over all arms together)
    """

    one: float
    degrees: int
    unlike: frozenset[str] = frozenset()

    @classmethod
    def of(cls, scores: Mapping[str, Mapping[Any, float]]) -> Spread | None:
        """scores: {arm: {seed: pass@1}}. None where fewer than three arms have two seeds in common."""
        most = max(map(len, scores.values()), default=0)
        whole = {arm: by_seed for arm, by_seed in scores.items() if len(by_seed) == most}
        if most < 2 or len(whole) < 3 or len({frozenset(by_seed) for by_seed in whole.values()}) > 1:
            return None
        y = np.array([[by_seed[s] for s in sorted(by_seed)] for by_seed in whole.values()])
        rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
        arms, seeds = y.shape
        own, degrees = (rest**2).sum(1), (arms - 1) * (seeds - 1)
        kept = (seeds - 1) * (arms - 1) / arms  # degrees of freedom of an arm's own
        unlike = set()
        for arm, mine in zip(whole, own):
            others = (own.sum() - mine) / (degrees - kept)
            if others == 0 or f_tail(mine / kept / others, seeds - 1, degrees - (seeds - 1)) < 0.05 / arms:
                unlike |= {arm} if mine > 0 else set()
        return cls(math.sqrt(float(own.sum()) / degrees), degrees, frozenset(unlike))


@dataclass(frozen=True)
class Errors:
    """Standard errors of a difference, with their degrees of freedom: of seeds, and of tasks."""

    seeds: float
    tasks: float
    free: int
    degrees: int

    def half(self, level: float) -> float:
        """Half the width of the interval of this level."""
        q = (1 + level) / 2
        return math.hypot(t_quantile(q, self.free) * self.seeds, t_quantile(q, self.degrees) * self.tasks)

    def p(self, mean: float) -> float:
        """Two-sided: 1 − the highest level whose interval leaves 0 out."""
        if mean == 0 or self.seeds == self.tasks == 0:
            return float(mean == 0)
        low, high = 0.0, 1.0 - 1e-9
        for _ in range(30):
            level = (low + high) / 2
            low, high = (level, high) if self.half(level) < abs(mean) else (low, level)
        return 1 - low


def difference(a: np.ndarray, b: np.ndarray, sources: Sequence[str], spread: Spread | None = None) -> Difference:
    """Of a − b; a, b [seeds, tasks] share of the attempts that passed; sources [tasks], which weigh the same."""
    gap = a - b
    parts = [gap[:, np.flatnonzero(np.array(sources) == s)] for s in dict.fromkeys(sources)]
    mean = float(np.mean([x.mean() for x in parts]))
    if len(gap) < 2:
        return Difference(mean, None, None, 1.0, len(gap))
    found = errors(parts, spread)
    half = found.half(0.95)
    return Difference(mean, mean - half, mean + half, found.p(mean), len(gap))


def errors(parts: Sequence[np.ndarray], spread: Spread | None = None) -> Errors:
    """Of the mean over sources; parts: differences [seeds, tasks] of each source. Two seeds or more."""
    seeds, tasks = len(parts[0]), sum(x.shape[1] for x in parts)
    rng = streams.generator(0, "compare", seeds, tasks)
    by_seed = np.mean([x.mean(1) for x in parts], axis=0)
    drawn = by_seed[rng.integers(0, seeds, (RESAMPLES, seeds))].mean(1)
    columns = [x.mean(0) for x in parts]
    again = np.mean([x[rng.integers(0, len(x), (RESAMPLES, len(x)))].mean(1) for x in columns], axis=0)
    own, free = float(drawn.std()) * math.sqrt(seeds / (seeds - 1)), seeds - 1
    if spread is not None:
        own, free = max(own, spread.one * math.sqrt(2 / seeds)), spread.degrees
    return Errors(own, float(again.std()), free, max(1, tasks - len(parts)))


def holm(p: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """p corrected so that one false difference among all is found in 5 % of comparisons (Holm, 1979)."""
    out: dict[tuple[str, str], float] = {}
    most = 0.0
    for n, key in enumerate(sorted(p, key=lambda k: p[k])):
        most = max(most, min(1.0, (len(p) - n) * p[key]))
        out[key] = most
    return out


def t_cdf(x: float, degrees: float) -> float:
    """P(T ≤ x) of Student's t."""
    tail = 0.5 * _beta(degrees / (degrees + x * x), degrees / 2, 0.5)
    return 1 - tail if x > 0 else tail


def f_tail(x: float, above: float, below: float) -> float:
    """P(F > x) with these degrees of freedom of the numerator and of the denominator."""
    return _beta(below / (below + above * x), below / 2, above / 2)


def t_quantile(q: float, degrees: float) -> float:
    """x with P(T ≤ x) = q, for q ≥ 0.5."""
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < q:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < q else (low, middle)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    tiny = 1e-300
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / max(tiny, 1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 300):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + factor * d or tiny)
            c = 1 + factor / c or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * value
