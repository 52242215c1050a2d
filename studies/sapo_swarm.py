"""A swarm of four nodes as processes: do others' answers, as text, help a node that has a kind of task of its own?

python -m studies.sapo_swarm --seeds 3
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean

from studies.check import Check, Measure, main

KINDS = ("gcd?max_value=50", "count_bits?max_n=127", "spell_backward?min_word_len=3&max_word_len=5",
         "chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=1")  # fmt: skip
STEPS, GROUPS = 24, 8


def arm(external: int) -> Callable[[int, Path], dict[str, float]]:
    """I/J = (8 − external)/external."""

    def run(seed: int, folder: Path) -> dict[str, float]:
        folder.mkdir(parents=True)
        nodes = [subprocess.Popen(command(k, external, seed, folder)) for k in range(len(KINDS))]
        if sum(node.wait() != 0 for node in nodes):
            raise SystemExit(f"a node failed: see {folder}")
        return figures(folder)

    return run


def command(k: int, external: int, seed: int, folder: Path) -> list[str]:
    options = {
        "meet": folder / "meet", "node": f"n{k}", "nodes": len(KINDS), "groups": GROUPS - external, "attempts": 8,
        "external": external, "steps": STEPS, "lr": 3e-4, "warmup": 2, "max-tokens": 32, "save-every": 0,
        "seed": 10 * seed + k, "threads": 1, "out": folder / str(k),
        "data": f"rg:{KINDS[k]}&size=2000&seed={100 + seed}",
        "eval-data": ",".join(f"rg:{kind}&size=12&seed=7" for kind in KINDS), "eval-tasks": 48, "eval-attempts": 4,
    }  # fmt: skip
    return [
        sys.executable,
        "-m",
        "temper",
        "run",
        "sapo-swarm",
        *(w for o, v in options.items() for w in (f"--{o}", str(v))),
    ]


def figures(folder: Path) -> dict[str, float]:
    """Means over the nodes: reward of their own samples, how much it swings, and pass@1 over all four kinds."""
    rewards = [rows(folder / str(k), "swarm/own_reward") for k in range(len(KINDS))]
    after = [json.loads((folder / str(k) / "summary.json").read_text())["after"]["pass@1"] for k in range(len(KINDS))]
    return {
        "collected": mean(map(mean, rewards)),
        "late": mean(mean(node[-STEPS // 4 :]) for node in rewards),
        "swing": mean(mean(abs(y - x) for x, y in pairwise(node)) for node in rewards),
        "all kinds": mean(after),
        "taken": mean(x for k in range(len(KINDS)) for x in rows(folder / str(k), "swarm/taken")),
    }


def rows(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


CHECK = Check(
    slug="sapo-swarm",
    title="Swarm sampling (SAPO)",
    claim="With as many groups in every update, four of one's own and four of others collect 94 % more reward "
    "than eight of one's own; six and two 52 %, two and six 68 % with oscillation (8 nodes of 0.5 B, "
    "2,000 rounds; Amico et al. 2025).",
    setting=f"Four nodes of temper-tiny as processes that exchange text over loopback, {STEPS} rounds of {GROUPS} "
    "groups × 8 answers, one update each. A node samples tasks of its own kind only (greatest divisors, "
    "bits, backward words, sums). Collected: the mean reward of what the nodes sampled themselves, over "
    "all rounds; all kinds: pass@1 of a node after training on 12 held-out tasks of each of the four "
    "kinds; swing: mean change from a round to the next.",
    arms={"8/0": arm(0), "6/2": arm(2), "4/4": arm(4), "2/6": arm(6)},
    measures=[
        Measure("collected", "4/4", "8/0", "collected reward"),
        Measure("collected", "6/2", "8/0", "collected reward"),
        Measure("all kinds", "4/4", "8/0", "pass@1 over all kinds"),
        Measure("all kinds", "6/2", "8/0", "pass@1 over all kinds"),
        Measure("swing", "2/6", "4/4", "change between rounds"),
    ],
    exact="Groups of equal rewards do not join; text is encoded, judged and scored by the receiver (ρ = 1); two"
    " tokenizers keep a reward; the draw is repeatable; a node that is slow or gone is left out, and one "
    "that is killed does not stop the others (tests/methods/test_sapo_swarm.py).",
)

if __name__ == "__main__":
    raise SystemExit(main(CHECK))
