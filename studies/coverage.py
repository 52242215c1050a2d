"""How often the intervals of `temper compare` are wrong, in simulated comparisons of equal methods.

    python -m studies.coverage [COMPARISONS]

Only seeds differ: scores are normal around 0.8 with a standard deviation of 0.01, in one row three times that for one
arm. Single: intervals of pairs (of that arm) that leave out 0. Whole: comparisons with a difference after Holm.
"""

from __future__ import annotations

import math
import sys
from itertools import combinations

import numpy as np

from temper.compare.intervals import Spread, holm, t_cdf


def p_value(gap: np.ndarray, spread: Spread | None) -> float:
    """Of the differences of a pair by seed, as `temper.compare.intervals.errors` takes them, with no error of tasks."""
    n = len(gap)
    error, free = float(gap.std(ddof=1)) / math.sqrt(n), n - 1
    if spread is not None:
        error, free = max(error, spread.one * math.sqrt(2 / n)), spread.degrees
    return 2 * t_cdf(-abs(float(gap.mean())) / error, free)


def wrong(arms: int, seeds: int, wild: float, comparisons: int, alone: bool) -> tuple[float, float]:
    """(share of single intervals, share of whole comparisons); alone: every pair by its own seeds."""
    rng = np.random.default_rng(arms * 100 + seeds)
    single, whole, count = 0, 0, 0
    for _ in range(comparisons):
        runs = 0.8 + rng.normal(0, 0.01, (arms, seeds)) * np.where(np.arange(arms) == 0, wild, 1.0)[:, None]
        spread = None if alone else Spread.of({str(a): dict(enumerate(r)) for a, r in enumerate(runs)})
        p = {}
        for a, b in combinations(range(arms), 2):
            unlike = spread is not None and bool(spread.unlike & {str(a), str(b)})
            p[str(a), str(b)] = p_value(runs[a] - runs[b], None if unlike else spread)
        looked = [v for (a, _), v in p.items() if wild == 1 or a == "0"]
        single, count = single + sum(v < 0.05 for v in looked), count + len(looked)
        whole += any(v < 0.05 for v in holm(p).values())
    return single / count, whole / comparisons


def main(argv: list[str]) -> int:
    comparisons = int(argv[0]) if argv else 1000
    print("arms  seeds  spread of one arm  pairs          single  whole")
    for arms, seeds, wild in ((12, 3, 1), (12, 3, 3), (4, 3, 1), (4, 3, 3), (12, 5, 1)):
        for alone in (False, True):
            single, whole = wrong(arms, seeds, wild, comparisons, alone)
            name = "by themselves" if alone else "together"
            print(f"{arms:4}  {seeds:5}  {wild:17}  {name:13}  {single:6.3f}  {whole:5.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
