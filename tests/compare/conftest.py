"""A comparison that is over, without training."""

import json
from pathlib import Path
from typing import Any

import pytest

from temper.compare import arms, outcome, runs

BUDGET = "40-sampled-tokens"


def write_run(folder: Path, passed: list[int], budget: float = 100, step: float = 25.0) -> None:
    """A finished run: four attempts at each task, rewards that rise, and what was spent."""
    folder.mkdir(parents=True)
    n = len(passed)
    rows: list[dict[str, Any]] = [{"step": 0, "eval/pass@1": 0.25}]
    total = 0.0
    while total < budget:
        total += step
        spent = {f"ledger/total/{n}": total * k for n, k in (("sampled_tokens", 1), ("forward_flops", 70))}
        rows.append({"step": len(rows), "reward": total / 200, "perf/environment_s": 0.5, **spent})
    rows[-1]["eval/pass@1"] = sum(passed) / n / 4
    tasks = [["sums" if i < n // 2 else "words", f"t{i}"] for i in range(n)]
    ledger = {"sampled_tokens": total, "trained_tokens": total, "forward_flops": 3e9, "peak_memory_mib": 300.0}
    ledger["seconds"] = {"rollout": 1.0, "update": 0.5, "idle": 0.1}
    summary = {"steps": len(rows) - 1, "seconds": 2.0, "ledger": ledger}
    summary["passes"] = {"tasks": tasks, "attempts": 4, "before": [1] * n, "after": passed}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    """Three arms with three seeds: one is better than both others, which are alike; a fourth failed."""
    made = arms.arms_of(["grpo", "better: grpo --lr 3e-4", "rloo --attempts 8", "<b>bad & worse</b>: grpo"])
    jobs = runs.jobs(made, range(3), tmp_path, BUDGET)
    for job in jobs:
        up = {"grpo": 0, "better": 2, "rloo-attempts-8": 0}.get(job.arm.label)
        if up is not None:
            some = [(job.seed + i + (job.arm.label == "grpo")) % 2 for i in range(8)]
            write_run(job.folder, [up + n + (i == 3) for i, n in enumerate(some)])
    failed = {"b-bad-worse-b, seed 0": "out of luck <script>alert(1)</script>"}
    return outcome.read(jobs, {"sampled_tokens": 100.0}, failed, "temper compare …")
