"""ReTool: imitation of demonstrations with code, then RL with an interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temper.methods.environments.retool import retool as method
from temper.recipe import extends
from temper.recipes.python_tool import with_python
from temper.run import Run


@extends(with_python, without=("method", "name", "env", "wrap", "answer"))
def retool(
    out: Path = Path("runs/retool"),
    bonus: float = 0.1,
    cap: float = -0.6,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    **options: Any,
) -> list[Run]:
    """Reward +1 or −1, and a little for trying tools where the answer is wrong (Feng et al. 2025).

    out                  directory of the run: RL starts from the model that the cold start leaves there
    bonus                for every two messages of a wrong episode; cap: the most that a wrong one gets
    clip_low, clip_high  range of the probability ratio, below and above 1
    """
    return with_python(
        lambda policy, env: method(policy, bonus=bonus, cap=cap, clip_low=clip_low, clip_high=clip_high),
        name="retool", out=out, **options,
    )  # fmt: skip
