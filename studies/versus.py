"""Arms of recipes that stop at equal sampled tokens: what a method is measured with against the one it claims to beat.

Arms of one seed see the same tasks in the same order with the same random streams, as under `temper compare`; a run
ends after the step that reaches the budget.
"""

from __future__ import annotations

import asyncio
import inspect
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

SUMS = "rg:chain_sum?min_terms=2&max_terms=2&min_digits=2&max_digits=2&size=4000"
SUMS_SETTING = SETTING.replace("its quickstart suite", "sums of two two-digit numbers").replace(
    "questions × 4", "sums × 4"
)


def at_equal_tokens(
    recipe: Callable[..., Run | list[Run]],
    sampled: int = SAMPLED,
    watch: Callable[[Run], None] | None = None,
    **options: Any,
) -> Arm:
    """An arm: (seed, folder) -> the figures of its run, or of the last of its phases, which alone has the budget.

    watch  may add probes or stages to that run before it starts
    """

    def arm(seed: int, folder: Path) -> dict[str, float]:
        from temper.loop import train_all

        made = recipe(seed=seed, **{**SIZES, **options, **({"out": folder} if _in_phases(recipe) else {})})
        phases = made if isinstance(made, list) else [made]
        for n, phase in enumerate(phases):
            phase.out = folder if len(phases) == 1 else folder / f"{n + 1}-{phase.name}"
            phase.threads = 1
        last = phases[-1]
        last.steps, last.budget = UNBOUNDED, {"sampled_tokens": float(sampled)}
        if watch is not None:
            watch(last)
        asyncio.run(train_all(phases))
        out = Path(str(last.out))
        return figures_of(out) | {"steps": float(len((out / "metrics.jsonl").read_text().splitlines()))}

    return arm


def _in_phases(recipe: Callable[..., Any]) -> bool:
    return "out" in inspect.signature(recipe).parameters


def kept(folder: Path) -> list[dict[str, Any]]:
    """The run's records, step by step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
