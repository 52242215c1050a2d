"""A tool for arithmetic that the model cannot do in its head: ReTool's two phases with an interpreter, and without.

python -m studies.retool --seeds 5
"""

from __future__ import annotations

from pathlib import Path

from studies.check import Check, Measure, main
from studies.phases import trained_in_phases
from temper.recipes.retool import retool

SIZES = {"steps": 20, "groups": 8, "eval_tasks": 80, "eval_attempts": 1, "save_every": 0}


def python(seed: int, folder: Path) -> dict[str, float]:
    return gained(trained_in_phases(retool, seed, folder, tool="python", **SIZES))


def none(seed: int, folder: Path) -> dict[str, float]:
    return gained(trained_in_phases(retool, seed, folder, tool="none", **SIZES))


def gained(figures: dict[str, float]) -> dict[str, float]:
    return figures | {"gain": figures["after/pass@1"] - figures["before/pass@1"]}


CHECK = Check(
    slug="retool",
    title="ReTool",
    claim="With an interpreter a 32B model reaches 67 % on AIME 2024 in 400 steps of RL; without one 40 % in 1080 "
    "(Feng et al. 2025).",
    paper="67 % of AIME 2024 in 400 steps with an interpreter, 40 % in 1080 without, 32B. Not comparable: products "
    "of numbers here.",
    setting="temper-tiny and products of two-digit numbers, of which a fifth (1,600) is held out of both phases. Cold "
    "start: 8 steps of 32 demonstrations (a call with code, what it printed, the answer in a box); without a tool the "
    "answer alone. Then 20 steps of RL, 8 products × 8 episodes. pass@1: 80 held-out products, one attempt each, at "
    "temperature 1. One thread; `cpu` in the JSON is the processor time of both phases with both evaluations.",
    arms={"python": python, "none": none},
    measures=[
        Measure("after/pass@1", "python", "none", "pass@1 after RL"),
        Measure("gain", "python", "none", "what RL adds to pass@1 after the cold start"),
    ],
    exact="Rewards of episodes with 2, 4, 6, 8, 10 and 12 messages by hand; tool output has no TOKEN rows in either "
    "phase (tests/methods/test_retool.py).",
    note="Before its cold start the model solves none of these, with or without the interpreter: it writes calls that "
    "cannot be read. The check with tool output in the loss, where its loss is to fall without a gain in reward, was "
    "not run: what the environment adds has no rows here, so there is no such switch.",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
