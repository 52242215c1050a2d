"""Forecasts of `temper plan` against runs that were measured: from sizes alone, and from another run.

    python -m studies.plan [--steps 12] [--out docs/scale/plan.json]

Four settings of one model with random weights, one thread. Clocks are of CPU seconds, since the machine may be shared.
"From sizes" is `world_of` for a device whose matrix products and memory were measured here; "from the first run" is the
world of the first setting's run, with the other setting's sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from temper.backends.base import AdamW, SamplingParams
from temper.bench.workloads import WORKLOADS, make_model
from temper.carrier import Batch
from temper.columns import REWARD, TOKEN, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.objective import Update
from temper.parts.curricula import Generated
from temper.policy import Policy
from temper.report import revision
from temper.run import Run
from temper.simulate.measured import SECONDS, Measured
from temper.simulate.plan import USED, Device, Load, error, forecast, world_of
from temper.simulate.world import World
from temper.tasks.task import Task

STORED = Path(__file__).parents[1] / "docs/scale/plan.json"
SIZE = "5m"
KEPT = ("step", "timing_s/step", "timing_s/update", "timing_s/sync", "ledger/sampled_tokens", "completions/mean_length")
SEEDS = 8


@dataclass(frozen=True)
class Setting:
    """tokens: of an answer, mean; most: the longest."""

    groups: int
    attempts: int
    tokens: int
    most: int


SETTINGS = {
    "8 × 8, 24 tokens": Setting(8, 8, 24, 96),
    "4 × 8, 24 tokens": Setting(4, 8, 24, 96),
    "16 × 16, 24 tokens": Setting(16, 16, 24, 96),
    "8 × 8, 72 tokens": Setting(8, 8, 72, 288),
}


class Odd:
    """Reward: share of odd ids, so that groups differ."""

    reads, writes = (), (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(REWARD, b.mean((b.token_ids % 2).float(), TOKEN, TRAJECTORY).nan_to_num(nan=0.0))


@contextlib.contextmanager
def cpu_seconds() -> Iterator[None]:
    """Every clock that a run reads counts this process's CPU seconds."""
    kept, time.perf_counter = time.perf_counter, time.process_time
    try:
        yield
    finally:
        time.perf_counter = kept


def measured(s: Setting, steps: int, folder: Path) -> tuple[Measured, int]:
    """The run, and how many parameters a token uses."""
    workload = replace(WORKLOADS["B"], mean=s.tokens, answer=s.most)
    policy = Policy(model=make_model(folder / "model", workload, SIZE), optimizer=AdamW(lr=1e-6), device="cpu")
    m = grpo(policy)
    prompts = workload.prompts()
    run = Run(
        name="plan", env=SingleTurn(), curriculum=Generated(lambda k: Task(f"t{k}", prompts[k % 64]), s.attempts),
        roles={"solver": policy}, on_group=[Odd(), *m.on_group], updates=[Update(policy, m.terms)], steps=steps,
        groups=s.groups, sampling=SamplingParams(max_tokens=s.most), transcripts_every=0, threads=1,
    )  # fmt: skip
    run.out = folder / "run"
    run.save_every = 0
    with cpu_seconds():
        asyncio.run(train(run))
    from temper.models.load import load_model

    weights = {n: p.numel() for n, p in load_model(policy.model, device="cpu").named_parameters()}
    return Measured.of(run.out), sum(n for name, n in weights.items() if "embed_tokens" not in name)


def device() -> Device:
    """One thread of this machine: its matrix products (over USED, which the planner takes off again), its memory."""
    torch.set_num_threads(1)
    a, x = torch.randn(768, 768), torch.randn(2**26)
    products = _fastest(lambda: a @ a)
    read = _fastest(lambda: x.sum())
    bandwidth = x.nbytes / read
    return Device(flops=2 * 768**3 / products / USED, bandwidth=bandwidth, link=bandwidth)


def _fastest(what: Any, repeats: int = 9) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        what()
        seconds.append(time.process_time() - began)
    return min(seconds)


def forecasts(first: Measured, run: Measured, parameters: float, here: Device) -> dict[str, float]:
    """Seconds of a step of `run`'s setting: from sizes and durations spread as the first run's, and from that run."""
    n = run.groups * run.attempts
    sizes = world_of(parameters, 1, 1, here, slots=n, bytes_each=4.0)
    return {
        "sizes": _mean(replace(sizes, tail=first.latencies, streamed=False), run.load),
        "run": _mean(replace(first.world(), slots=n), run.load),
    }


def _mean(world: World, load: Load) -> float:
    return mean(forecast(world, load, 0, seed=s).seconds for s in range(SEEDS))


def restored(stored: dict[str, Any]) -> tuple[dict[str, Measured], float, Device]:
    runs = {name: Measured(r["groups"], r["attempts"], r["rows"]) for name, r in stored["runs"].items()}
    return runs, stored["parameters"], Device(**stored["device"])


def compared(stored: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each setting: measured seconds, and the forecasts."""
    runs, parameters, here = restored(stored)
    first = next(iter(runs.values()))
    return {name: {"measured": r.seconds, **forecasts(first, r, parameters, here)} for name, r in runs.items()}


def errors(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean relative errors; from a run: without the setting that it is itself."""
    rows = list(found.values())
    return {
        "sizes": error([r["sizes"] for r in rows], [r["measured"] for r in rows]),
        "run": error([r["run"] for r in rows[1:]], [r["measured"] for r in rows[1:]]),
    }


def table(found: dict[str, dict[str, float]]) -> list[str]:
    rows = ["| setting | measured | from sizes | ratio | from the first run | ratio |", "| --- | " + "--- | " * 5]
    for name, r in found.items():
        each = " | ".join(f"{r[k]:.2f} | {r[k] / r['measured']:.2f}" for k in ("sizes", "run"))
        rows.append(f"| {name} | {r['measured']:.2f} | {each} |")
    return [row.rstrip() for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, default=STORED)
    asked = parser.parse_args()
    runs: dict[str, Any] = {}
    parameters = 0
    for name, setting in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            found, parameters = measured(setting, asked.steps, Path(folder))
        rows = [{k: r[k] for k in KEPT} | {SECONDS: r[SECONDS]} for r in found.rows]
        runs[name] = {"groups": found.groups, "attempts": found.attempts, "rows": rows}
    stored = {
        "date": str(date.today()), "revision": revision(), "torch": torch.__version__, "model": SIZE,
        "parameters": parameters, "device": asdict(device()), "runs": runs,
    }  # fmt: skip
    result = compared(stored)
    stored |= {"compared": result, "errors": errors(result)}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(stored, indent=1) + "\n")
    print("\n".join([*table(result), f"mean relative error: {stored['errors']}"]))


if __name__ == "__main__":
    main()
