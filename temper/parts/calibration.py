"""How true stated confidences are, and votes that are weighted by them."""

from __future__ import annotations

from collections.abc import Sequence


def calibration(correct: Sequence[float], q: Sequence[float], bins: int = 10) -> dict[str, float]:
    """Accuracy, Brier score, expected calibration error over equal bins, AUROC (ties count half; NaN of one class)."""
    n, right = len(q), [c > 0.5 for c in correct]
    sums = [[0.0, 0.0] for _ in range(bins)]
    for r, x in zip(right, q):
        cell = sums[min(int(x * bins), bins - 1)]
        cell[0] += r
        cell[1] += x
    better = [(x > y) + 0.5 * (x == y) for r, x in zip(right, q) if r for s, y in zip(right, q) if not s]
    return {
        "accuracy": sum(right) / n, "brier": sum((r - x) ** 2 for r, x in zip(right, q)) / n,
        "ece": sum(abs(r - x) for r, x in sums) / n, "auroc": sum(better) / len(better) if better else float("nan"),
    }  # fmt: skip


def weighted_majority(answers: Sequence[str], q: Sequence[float]) -> str:
    """The answer with the largest sum of confidences (the first of equals)."""
    total: dict[str, float] = {}
    for a, x in zip(answers, q):
        total[a] = total.get(a, 0.0) + x
    return max(total, key=lambda a: total[a])
