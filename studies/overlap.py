"""How much faster a step is when sampling and training overlap in real processes, and where the cores cap it.

    python -m studies.overlap [--steps 12] [--seeds 3]        (a quiet machine: it measures wall seconds)

The same recipe four times: in one process, and with its sampler and its learner as two of Ray's actors, at staleness
0, 1 and 2. One thread a process. While they overlap a step cannot take less than the slower of the two, so that the
speed-up over one process is at most (sampling + update) / max(sampling, update), by the plain arm's own times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

from studies.check import interval
from temper.report import revision

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs/scale/overlap.json"
RAY = ["--backend", "ray", "--samplers", "1"]
ARMS: dict[str, list[str]] = {
    "one process": ["--staleness", "0"],
    "S = 0, apart": ["--staleness", "0", *RAY],
    "S = 1": ["--staleness", "1", *RAY],
    "S = 2": ["--staleness", "2", *RAY],
}
WARM, LATE = 4, 5  # steps before the first that counts; the last steps, whose rewards are averaged


def words(steps: int, seed: int) -> list[str]:
    return ["run", "relax", "--steps", str(steps), "--groups", "48", "--attempts", "8", "--eval-tasks", "0", "--seed",
            str(seed), "--threads", "1", "--save-every", "0"]  # fmt: skip


def measured(folder: Path) -> dict[str, float]:
    """Wall seconds of a step and of its parts (medians), and the mean reward of the last steps."""
    rows = [r for r in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if r["step"]]
    return {
        "step": median(r["timing_s/step"] for r in rows[WARM:]),
        "sampling": median(r["timing_s/rollout"] for r in rows[WARM:]),
        "update": median(r["timing_s/update"] for r in rows[WARM:]),
        "reward": mean(r["reward"] for r in rows[-LATE:]),
        "policy_kl": mean(r.get("policy_kl_first", r["policy_kl"]) for r in rows),
    }


def table(data: dict[str, Any]) -> list[str]:
    """Markdown rows: each arm against one process, paired by seed."""
    first = data["arms"]["one process"]
    cap = [(x["sampling"] + x["update"]) / max(x["sampling"], x["update"]) for x in first]
    rows = [
        f"At most {mean(cap):.2f} times as fast with two cores: alone, sampling takes "
        f"{_mean(first, 'sampling'):.2f} s and the update {_mean(first, 'update'):.2f} s.",
        "",
        "| arm | seconds a step | times as fast | reward, last steps | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in data["arms"].items():
        faster = [a["step"] / b["step"] for a, b in zip(first, runs)]
        apart = [b["reward"] - a["reward"] for a, b in zip(first, runs)]
        rows.append(
            f"| {name} | {_mean(runs, 'step'):.2f} | {_with_range(faster)} | {_mean(runs, 'reward'):.3f} | "
            f"{_with_range(apart, sign='+')} |"
        )
    return rows


def _mean(runs: Sequence[dict[str, float]], what: str) -> float:
    return mean(r[what] for r in runs)


def _with_range(values: list[float], sign: str = "") -> str:
    gap = interval(values)
    return f"{mean(values):{sign}.2f} [{gap['low']:{sign}.2f}, {gap['high']:{sign}.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=STORED)
    asked = parser.parse_args()
    arms: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            for name, options in ARMS.items():
                out = Path(folder) / f"{name.replace(' ', '')}-{seed}"
                command = [sys.executable, "-m", "temper", *words(asked.steps, seed), *options, "--out", str(out)]
                subprocess.run(command, cwd=ROOT, check=True)
                arms[name].append(measured(out))
    data = {
        "date": str(date.today()),
        "revision": revision(),
        "command": f"python -m studies.overlap --steps {asked.steps} --seeds {asked.seeds}",
        "run": " ".join(["temper", *words(asked.steps, 0)]),
        "options": ARMS,
        "arms": arms,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(data, indent=1) + "\n")
    print("\n".join(table(data)))


if __name__ == "__main__":
    main()
