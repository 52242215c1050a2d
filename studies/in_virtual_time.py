"""Arms of studies about asynchrony: a recipe trained in a world of made-up times, and what it showed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from temper.simulate import World, simulate

LATE = 4  # steps whose rewards are averaged


def arm(
    recipe: Callable[..., Any], world: World, seed: int, folder: Path, ahead: int | None = None, **options: Any
) -> dict[str, float]:
    """Steps in 1000 virtual seconds (the first, which nothing can overlap with, left out), idle shares in per cent, the
    late mean reward. ahead: staleness beyond the recipe's own, without a change of its loss."""
    run = recipe(seed=seed, save_every=0, eval_tasks=0, **options)
    run.out, run.threads = folder, 1
    if ahead is not None:
        run.ahead = ahead
    outcome = simulate(run, world)
    speed = 1000 * (len(outcome.seconds) - 1) / sum(outcome.seconds[1:])
    idle = {f"idle {who}": 100 * share for who, share in outcome.idle.items()}
    reward = mean(r["reward"] for r in outcome.history[-LATE:])
    kl = mean(r["policy_kl"] for r in outcome.history[1:])
    return {"speed": speed, "reward": reward, "policy_kl": kl, **idle, "seconds": mean(outcome.seconds[1:])}
