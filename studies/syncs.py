"""Seconds of a step under each way of taking over new weights, in virtual time: `python -m studies.syncs`.

GRPO, 4 groups × 4 answers of at most 32 tokens, two samplers; means of two seeds and of steps 3–10.
"""

from __future__ import annotations

import contextlib
import io
from statistics import mean
from typing import Any

from temper.recipes.grpo import grpo
from temper.simulate import Lognormal, World, simulate
from temper.sync import Name

NAMES: tuple[Name, ...] = ("blocking", "delayed", "staggered", "resume")
WORLDS: dict[str, dict[str, Any]] = {
    "weights move at once": {"slots": 8},
    "weights take 0.4 s": {"slots": 8, "transfer": 0.4},
    "and a token of a prompt 4 ms": {"slots": 8, "transfer": 0.4, "prompt": 0.004},
    "3 slots, weights take 0.1 s, a token of a prompt 1 ms": {"slots": 3, "transfer": 0.1, "prompt": 0.001},
}


def seconds(world: World, ahead: int, sync: Name, seed: int) -> float:
    run = grpo(steps=10, ahead=ahead, sync=sync, eval_tasks=0, groups=4, attempts=4, max_tokens=32, seed=seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return mean(simulate(run, world).seconds[2:])


def main() -> None:
    for name, fields in WORLDS.items():
        world = World(samplers=2, token=0.05, train=0.003, tail=Lognormal(1.0), **fields)
        for ahead in (1, 2):
            found = {sync: mean(seconds(world, ahead, sync, seed) for seed in (0, 1)) for sync in NAMES}
            print(f"{name}, ahead {ahead}:", *(f"{sync} {s:.2f}" for sync, s in found.items()), flush=True)


if __name__ == "__main__":
    main()
