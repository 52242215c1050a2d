"""SOP in a grid world: does time to a target fall with the number of actors, and does mixing by losses help?

python -m studies.sop --seeds 3
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from studies.check import Check, Measure, main
from temper.loop import train
from temper.recipes.sop import sop

STEPS, EVERY, TARGET = 120, 5, 0.9


def arm(**options: Any) -> Callable[[int, Path], dict[str, float]]:
    def run(seed: int, folder: Path) -> dict[str, float]:
        made = sop(stepped=0.25, steps=STEPS, eval_every=EVERY, seed=seed, **options)
        made.out, made.threads = folder, 1
        asyncio.run(train(made))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        looks = [(r["sop/step"], r["sop/success"]) for r in lines if "sop/success" in r]
        reached = next((step for step, x in looks if x >= TARGET), STEPS + EVERY)
        mirrored = [r["sop/success/mirror"] for r in lines if "sop/success/mirror" in r]
        found = {"reached": float(reached), "end": looks[-1][1], "mean": mean(x for _, x in looks)}
        return found | ({"mirror": mean(mirrored), "mirror end": mirrored[-1]} if mirrored else {})

    return run


CHECK = Check(
    slug="sop",
    title="Scalable online post-training (SOP)",
    claim="Time to a target falls near-linearly from one to four robots; with HG-DAgger success is 0.94 to 0.98"
    " (SOP 2026).",
    setting="temper-tiny moves on a 4 × 4 grid in words; an expert takes over for 3 moves after 2 that come no "
    f"nearer. {STEPS} steps of 32 decisions, 16 demonstrated episodes to begin with; every actor plays an "
    "episode in 4 steps of training, so that data is what is short. Reached: the first look (every "
    f"{EVERY} steps) at which the policy alone succeeds from {TARGET:.0%} of 60 starts ({STEPS + EVERY}: "
    "never). Shifted: a second task whose left and right are exchanged and whose demonstrations are from "
    "before that; ω by the losses, or 0.5; two actors.",
    arms={
        "one actor": arm(actors=1),
        "two actors": arm(actors=2),
        "four actors": arm(actors=4),
        "shifted, by losses": arm(actors=2, tasks=("reach", "mirror")),
        "shifted, 0.5": arm(actors=2, tasks=("reach", "mirror"), fixed=0.5),
    },
    measures=[
        Measure("reached", "two actors", "one actor", "steps to the target", lower=True),
        Measure("reached", "four actors", "two actors", "steps to the target", lower=True),
        Measure("mirror", "shifted, by losses", "shifted, 0.5", "success in the exchanged task, mean over training"),
    ],
    exact="ω worked by hand with both clips and cold starts; losses are unweighted, by task and source, and "
    "forgotten when stale; only the expert's steps are learned; one version of the weights in an episode;"
    " an actor that is killed does not stop the others (tests/methods/test_sop.py).",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
