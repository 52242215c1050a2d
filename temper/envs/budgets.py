"""How many continuations a tree goes on with, and which of its leaves get them (TreePO, arXiv 2508.17445)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def budget(live: int, finished: int, ended: int, width: int, branching: int) -> int:
    """B = max(n, min(W − F, d·n + d·e)): spans behind n live leaves, when e of the F finished ones ended just now."""
    return max(live, min(width - finished, branching * (live + ended)))


def evenly(total: int, n: int) -> list[int]:
    """⌊total/n⌋ each, and the remainder to the last."""
    return [total // n] * (n - 1) + [total // n + total % n]


def by_weight(weights: Sequence[float], total: int) -> list[int]:
    """One each, and the rest in proportion to `weights` (they sum to 1), largest remainders first."""
    raw = np.asarray(weights) * (total - len(weights))
    parts = np.floor(raw).astype(int)
    order = np.argsort(parts - raw, kind="stable")
    parts[order[: total - len(weights) - int(parts.sum())]] += 1
    return [int(p) + 1 for p in parts]


def likelihoods(x: NDArray[Any]) -> list[float]:
    """softmax(x)."""
    w = np.exp(x - x.max())
    return [float(v) for v in w / w.sum()]
