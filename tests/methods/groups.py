"""Groups to work out by hand."""

from __future__ import annotations

from collections.abc import Sequence

from temper.carrier import Batch
from tests.core.hand import TASK_A, chain


def of(*groups: Sequence[tuple[int, float | None]]) -> Batch:
    """Each group's answers as (tokens, reward); None: not judged. Every behaviour log-prob is −1."""
    return Batch.of([chain(TASK_A, str(n), tokens, r) for n, rows in enumerate(groups) for tokens, r in rows])
