"""Arms that begin at one cold start: imitation runs once for a study, RL once for each arm and seed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.check import KEPT, Arm, trained


def arm(recipe: Callable[..., Any], slug: str, **options: Any) -> Arm:
    """An arm of a recipe whose phases are a cold start (of seed 0) and RL (of the arm's seed)."""

    def measured(seed: int, folder: Path) -> dict[str, float]:
        out = KEPT / slug / "shared"
        begin(recipe, out)
        return trained(lambda **given: recipe(out=out, **given)[-1], seed, folder, **options)

    return measured


def began(slug: str, arm: str) -> Arm:
    """What an arm of the same seed, measured before, scored where it began: an arm that trains nothing."""

    def measured(seed: int, folder: Path) -> dict[str, float]:
        found = json.loads((KEPT / slug / f"{arm.replace(' ', '-')}-s{seed}.json").read_text())
        return {"after/pass@1": found["before/pass@1"]}

    return measured


def begin(recipe: Callable[..., Any], out: Path) -> None:
    """Train the first phase, where nobody has."""
    from temper.loop import train

    first = recipe(out=out, seed=0)[0]
    first.out, first.threads = out / f"1-{first.name}", 1
    if not (first.out / "summary.json").exists():
        asyncio.run(train(first))
