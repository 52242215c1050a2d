"""Arms of recipes that stop at equal sampled tokens: what a method is measured with against the one it claims to beat.

Arms of one seed see the same tasks in the same order with the same random streams, as under `temper compare`; a run
ends after the step that reaches the budget.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.check import Arm, figures_of
from temper.ledger import UNBOUNDED
from temper.run import Run

SIZES: dict[str, Any] = {"groups": 8, "attempts": 8, "eval_tasks": 140, "eval_attempts": 4, "save_every": 0}
SAMPLED = 40_000  # tokens of an arm
SETTING = (
    "temper-tiny on its quickstart suite, 8 tasks × 8 attempts a step, the recipe's other defaults; arms of a seed "
    "share tasks and random streams and end after 40,000 sampled tokens. pass@1: 140 held-out questions × 4 attempts."
)

HARD = "rg:chain_sum?min_terms=3&max_terms=4&min_digits=2&max_digits=2&size=4000"
HARD_SETTING = SETTING.replace(
    "its quickstart suite", "sums of three or four two-digit numbers, of which it solves one in a hundred attempts"
).replace("questions × 4", "sums × 4")


def at_equal_tokens(
    recipe: Callable[..., Run],
    sampled: int = SAMPLED,
    watch: Callable[[Run], None] | None = None,
    **options: Any,
) -> Arm:
    """An arm: (seed, folder) -> the figures of its run.

    watch  may add probes or stages to the run before it starts
    """

    def arm(seed: int, folder: Path) -> dict[str, float]:
        from temper.loop import train

        run = recipe(seed=seed, **{**SIZES, **options})
        run.out, run.threads, run.steps, run.budget = folder, 1, UNBOUNDED, {"sampled_tokens": float(sampled)}
        if watch is not None:
            watch(run)
        asyncio.run(train(run))
        return figures_of(folder) | {"steps": float(len((folder / "metrics.jsonl").read_text().splitlines()))}

    return arm


def kept(folder: Path) -> list[dict[str, Any]]:
    """The run's records, step by step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
