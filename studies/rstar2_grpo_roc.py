"""Resample-on-Correct against as many attempts without it, where one way to write code fails now and then.

python -m studies.rstar2_grpo_roc --seeds 3
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.check import Check, Measure, main
from studies.measured import Share
from studies.phases import trained_in_phases
from temper.methods.environments.rstar2_grpo_roc import rstar2_grpo_roc
from temper.recipes.python_tool import TAGGED, with_python
from temper.run import Run
from temper.tools.base import Result, Tool

SIZES: dict[str, Any] = {
    "steps": 12, "groups": 6, "turns": 5, "cold_start": 12, "eval_tasks": 20, "eval_attempts": 1, "save_every": 0
}  # fmt: skip


class Grumpy:
    """A Python tool that refuses the first print(…) of an episode; a bare expression works, and so does a retry."""

    def __init__(self, tool: Tool, shared: bool = True):
        self.tool, self.shared = tool, shared
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters
        self.own_deadline, self.cacheable = True, False
        self.refused = False

    async def __call__(self, code: str) -> Result:
        if "print" in code and not self.refused:
            self.refused = True
            return Result("Error: busy, try again", "tool error")
        return await self.tool(code=code)

    def fresh(self) -> Grumpy:
        return Grumpy(self.tool, shared=False)

    def close(self) -> Any:
        return self.tool.close() if self.shared else None  # type: ignore[attr-defined]


def noisy(**options: Any) -> list[Run]:
    keep = options.pop("keep")
    return with_python(
        lambda policy, env: rstar2_grpo_roc(policy, keep=keep), name="noisy", wrap=Grumpy, answer=TAGGED, **options
    )


def arm(seed: int, folder: Path, **options: Any) -> dict[str, float]:
    errors = Share("errors_in_successes", lambda outcome: outcome != "ok", lambda reward: reward > 0)
    return trained_in_phases(noisy, seed, folder, errors.watch, keep=8, **SIZES, **options)


def resampled(seed: int, folder: Path) -> dict[str, float]:
    return arm(seed, folder, attempts=16)


def plain(seed: int, folder: Path) -> dict[str, float]:
    return arm(seed, folder, attempts=8)


CHECK = Check(
    slug="rstar2-grpo-roc",
    title="GRPO-RoC (rStar2-Agent)",
    claim="Resample-on-Correct lowers the share of tool errors within correct episodes, where plain GRPO leaves it "
    "as it is (Shang et al. 2025).",
    setting="temper-tiny and products of two-digit numbers with an interpreter that refuses the first print(…) of an "
    "episode, while a bare expression always works. Half of the demonstrations of the cold start (12 steps of 32) "
    "print, and try again. Then 12 steps of RL with 6 products, and 8 attempts at each that are trained on: chosen "
    "among 16, or all there are. Errors: failed calls over calls of the episodes with the right answer, before any "
    "selection, mean of the last fifth of the steps.",
    arms={"resampled": resampled, "plain": plain},
    measures=[
        Measure(
            "last/errors_in_successes", "resampled", "plain", "share of failed calls in correct episodes", lower=True
        ),
    ],
    exact="20 right and 12 wrong → 10 and 6, the right ones of least penalty; 31 and 1 → 15 and 1; penalties by hand "
    "(tests/methods/test_rstar2_grpo_roc.py).",
    note="The resampled arm plays twice as many episodes.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
