"""Reward against staleness, idle shares and time: the same recipe at S = 0, 1, 2, 4, 8 in virtual time.

python -m studies.staleness --seeds 3
"""

from __future__ import annotations

from pathlib import Path

from studies.check import Check, Measure, main
from studies.in_virtual_time import LATE, arm
from temper.recipes.asyncflow_transferqueue import asyncflow_transferqueue
from temper.simulate import Lognormal, World

STEPS, AHEAD = 12, (0, 1, 2, 4, 8)
WORLD = World(samplers=4, slots=8, token=0.05, tail=Lognormal(1.0), learners=2, train=0.006, transfer=0.5)
MARGIN = 0.1


def at(ahead: int):  # type: ignore[no-untyped-def]
    def measure(seed: int, folder: Path) -> dict[str, float]:
        found = arm(
            asyncflow_transferqueue, WORLD, seed, folder, staleness=ahead, sync="resume", steps=STEPS, groups=8,
            attempts=4, max_tokens=32, lr=5e-4,
        )  # fmt: skip
        kept = found["reward"] + (MARGIN if ahead else 0.0)
        return {**found, "reward with margin": kept}

    return measure


CHECK = Check(
    slug="staleness",
    title="Staleness",
    claim="AsyncFlow's recipe: accuracy holds up to S = 2 and falls at 4 (GSM8K 91.9, 91.0, 92.4, 91.3 at S = 0, 1, 2, "
    "4; MATH500 45.2, 46.0, 47.2, 43.0); asynchrony shortens steps by hiding the slowest answers.",
    setting=f"temper-tiny on the bundled suite, GRPO at a learning rate of 5e-4, {STEPS} steps of 8 groups × 4 "
    "answers, really trained in virtual time: 4 samplers of 8 slots, 0.05 s a token, lognormal stragglers (σ = 1), 2 "
    "learners at 6 ms a token, 0.5 s for new weights; answers are cut and resumed at every update. reward: mean of "
    f"the last {LATE} steps; with margin: {MARGIN} added to the stale arms'; speed: steps in 1000 virtual seconds; "
    "idle: share of the samplers' slots, in per cent.",
    arms={f"S={s}": at(s) for s in AHEAD},
    measures=[
        *(
            Measure("reward with margin", f"S={s}", "S=0", f"reward at S = {s} at most {MARGIN} lower")
            for s in AHEAD[1:]
        ),
        *(Measure("speed", f"S={s}", "S=0", f"faster at S = {s}") for s in AHEAD[1:]),
        Measure("idle samplers", "S=1", "S=0", "samplers idle less at S = 1", lower=True),
        Measure("idle samplers", "S=4", "S=1", "and less at S = 4", lower=True),
    ],
    exact="tests/asynchrony: no row is more than S versions old under any sync policy, S = 0 equals the plain loop to "
    "the bit, a simulation repeats to the bit.",
)


if __name__ == "__main__":
    raise SystemExit(main(CHECK))
