"""SimpleTIR with and without its filter of void turns, where the interpreter's answers are garbled now and then.

python -m studies.simpletir --seeds 3
"""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from studies.check import Check, Measure, main
from studies.phases import trained_in_phases
from temper.envs.tools import ToolUse
from temper.methods.environments.simpletir import Interpreter, has_box, simpletir
from temper.parts.gates import quantile
from temper.recipes.python_tool import with_python
from temper.run import Run
from temper.tools.base import Result

SIZES: dict[str, Any] = {
    "steps": 12, "groups": 6, "attempts": 8, "turns": 5, "cold_start": 9, "eval_tasks": 40, "eval_attempts": 1,
    "save_every": 0, "reward": ("temper.methods.environments.simpletir:boxed_answer",),
}  # fmt: skip


class Garbled(Interpreter):
    """An interpreter whose first answer in an episode is noise for a third of all code."""

    heard = False

    async def __call__(self, code: str) -> Result:
        draw = Random(zlib.crc32(code.encode()))
        if not self.heard and draw.random() < 1 / 3:
            self.heard = True
            return Result("".join(chr(draw.randrange(33, 127)) for _ in range(40)), "tool error")
        self.heard = True
        return await super().__call__(code)

    def fresh(self) -> Interpreter:
        return OfEpisode(self.tool, self.limit)


class OfEpisode(Garbled):
    """Its interpreter is everybody's."""

    def close(self) -> None:
        pass


def noisy(mask_void: bool, **options: Any) -> list[Run]:
    return with_python(
        lambda policy, env: simpletir(policy, mask_void=mask_void), name="noisy", env=partial(ToolUse, final=has_box),
        wrap=Garbled, **options,
    )  # fmt: skip


def arm(seed: int, folder: Path, mask_void: bool) -> dict[str, float]:
    figures = trained_in_phases(noisy, seed, folder, mask_void=mask_void, **SIZES)
    lines = (folder / "2-noisy" / "metrics.jsonl").read_text().splitlines()
    norms = [x["grad_norm"] for x in map(json.loads, lines) if "grad_norm" in x]
    return figures | {"p99": float(quantile(torch.tensor(norms), 0.99))}


def filtered(seed: int, folder: Path) -> dict[str, float]:
    return arm(seed, folder, True)


def unfiltered(seed: int, folder: Path) -> dict[str, float]:
    return arm(seed, folder, False)


CHECK = Check(
    slug="simpletir",
    title="SimpleTIR",
    claim="Leaving out episodes with a void turn keeps the gradient norm from spiking, and multi-turn training stable "
    "(Xue et al. 2025).",
    paper="22.1 → 50.5 on AIME 2024, Qwen2.5-7B. Not comparable; the spikes of the gradient norm are shown there as"
    " a curve.",
    setting="temper-tiny and products of two-digit numbers after a cold start of 9 steps of 32 demonstrations; for a "
    "third of all code the first answer of the interpreter is 40 random characters. 12 steps of RL, 6 products × 8 "
    "episodes of at most 5 turns. Gradient norm: before clipping, 99th percentile over the steps. pass@1: 40 held-out "
    "products.",
    arms={"filtered": filtered, "unfiltered": unfiltered},
    measures=[
        Measure("p99", "filtered", "unfiltered", "gradient norm, 99th percentile", lower=True),
        Measure("after/pass@1", "filtered", "unfiltered", "pass@1 after training"),
    ],
    exact="A void row has exactly no gradient and the other rows' advantages are those with it present; over-long "
    "rows leave both; what is void; which groups count (tests/methods/test_simpletir.py).",
    note="No step of either arm has a spike: a fifth of the episodes have a void turn at first, a tenth in the end and "
    "their gradient is not larger than that of the others. Nothing can be said about the filter at this scale beyond "
    "that it did no visible harm or good in 12 steps.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
