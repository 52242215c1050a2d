"""GRPO with Resample-on-Correct (rStar2-Agent)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temper.methods.environments.rstar2_grpo_roc import rstar2_grpo_roc as method
from temper.recipe import extends
from temper.recipes.python_tool import TAGGED, with_python
from temper.run import Run


@extends(with_python, without=("method", "name", "env", "wrap", "answer"))
def rstar2_grpo_roc(
    out: Path = Path("runs/rstar2-grpo-roc"),
    attempts: int = 16,
    keep: int = 8,
    least: int = 2,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    groups: int = 8,
    turns: int = 5,
    **options: Any,
) -> list[Run]:
    """Twice the attempts; of the successes those with the fewest failed calls are trained on (Shang et al. 2025).

    out                  directory of the run: RL starts from the model that the cold start leaves there
    attempts             answers to each task
    keep                 of which so many are trained on
    least                failures and successes that are kept at least, where there are as many
    clip_low, clip_high  range of the probability ratio, below and above 1
    groups               tasks in a step
    turns                most turns that the model takes
    """
    return with_python(
        lambda policy, env: method(policy, keep=keep, least=least, clip_low=clip_low, clip_high=clip_high),
        name="rstar2-grpo-roc", answer=TAGGED, out=out, attempts=attempts, groups=groups, turns=turns, **options,
    )  # fmt: skip
