"""What a comparison found: the run directories as one piece of plain data, compare.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from temper.compare.intervals import Difference, Spread, difference, holm
from temper.compare.reading import groups, notes, reading
from temper.compare.runs import Job
from temper.errors import UserError
from temper.ledger import AXES, SECONDS

Json = dict[str, Any]
POINTS = 40  # of a curve
COSTS = ("sampled_tokens", "trained_tokens", "scored_tokens", "judge_tokens", "judge_calls", "tool_calls",
         "optimiser_steps", "forward_flops", "backward_flops", "peak_memory_mib")  # fmt: skip
STAGES = ("rollout", "update", "reward", "tools", "environment", "idle")


def read(jobs: Sequence[Job], budget: Mapping[str, float], failed: Mapping[str, str], command: str) -> Json:
    """Everything that the page shows. UserError when no run is finished."""
    axis, most = next(iter(budget.items()))
    labels = list(dict.fromkeys(job.arm.label for job in jobs))
    runs = {label: {j.seed: read_run(j.folder) for j in jobs if j.arm.label == label and j.done} for label in labels}
    if not any(runs.values()):
        why = next(iter(failed.values()), "none was trained")
        raise UserError(f"no run is finished: {why}")
    arms = [_arm(next(j for j in jobs if j.arm.label == label), runs[label], axis, most) for label in labels]
    spread = Spread.of({arm["label"]: arm["by_seed"] for arm in arms if arm["seeds"]})
    pairs = _pairs(runs, spread)
    shown = {n: arm["pass@1"] for n, arm in zip(labels, arms) if arm["seeds"]}
    apart = {frozenset(k) for k, d in pairs.items() if d.told_apart}
    letters = groups(shown, {k for k in map(frozenset, combinations(shown, 2)) if k not in apart})
    for arm in arms:
        others = [(n, pairs[k]) for n in labels for k in ((n, arm["label"]), (arm["label"], n)) if k in pairs]
        arm["rank"] = 1 + sum(_better(pairs, n, arm["label"]) for n, _ in others) if arm["seeds"] else None
        arm["groups"] = letters.get(arm["label"], "")
        arm["not_told_apart_from"] = [n for n, d in others if not d.told_apart]
    first = [
        {"arm": n, "against": labels[0], **_row(pairs[n, labels[0]])} for n in labels[1:] if (n, labels[0]) in pairs
    ]
    found = {
        "command": command, "axis": axis, "budget": most, "arms": arms, "against_first": first,
        "pairs": [{"arm": a, "against": b, **_row(d)} for (a, b), d in pairs.items()],
        "spread": None if spread is None else {**asdict(spread), "unlike": sorted(spread.unlike)},
        "curves": curves({n: list(runs[n].values()) for n in labels if runs[n]}),
        "failed": dict(failed),
        "notes": notes(arms, len({j.seed for j in jobs}), axis, most, spread),
    }  # fmt: skip
    return {**found, "reading": reading(found)}


def read_run(folder: Path) -> Json:
    """A finished run: passes [tasks], costs, and what its curves need."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        passes = summary["passes"]
        share = {when: np.array(passes[when]) / passes["attempts"] for when in ("before", "after") if when in passes}
        return {**share, "tasks": [tuple(t) for t in passes["tasks"]], "summary": summary, "rows": _placed(rows)}
    except (ValueError, KeyError) as error:
        raise UserError(f"the run in {folder} is damaged ({type(error).__name__}: {error}): delete it, and run again")


def _placed(rows: Sequence[Json]) -> list[Json]:
    """Records with their place on every axis, x."""
    out = []
    passed = dict.fromkeys(SECONDS, 0.0)
    for row in rows:
        passed["seconds"] += row.get("timing_s/step", 0.0)
        passed["environment_seconds"] += row.get("perf/environment_s", 0.0)
        total = {n: row.get(f"ledger/total/{n}", 0.0) for n in AXES if n not in SECONDS}
        x = {**total, **passed, "flops": total["forward_flops"] + total["backward_flops"], "steps": row["step"]}
        out.append({"x": x, "pass@1": row.get("eval/pass@1"), "reward": row.get("reward")})
    return out


def _arm(job: Job, runs: Mapping[int, Json], axis: str, most: float) -> Json:
    """One row of the table: means over the seeds that are finished."""
    after = {seed: pass_at_1(r["after"], r["tasks"]) for seed, r in runs.items()}
    before = [pass_at_1(r["before"], r["tasks"]) for r in runs.values() if "before" in r]
    ledgers = [r["summary"]["ledger"] for r in runs.values()]
    cost = {n: float(np.mean([x[n] for x in ledgers])) for n in COSTS if ledgers and all(n in x for x in ledgers)}
    return {
        "label": job.arm.label,
        "recipe": job.arm.text,
        "seeds": sorted(runs),
        "pass@1": float(np.mean(list(after.values()))) if after else None,
        "by_seed": {str(k): v for k, v in after.items()},
        "before": float(np.mean(before)) if before else None,
        "sources": _sources(list(runs.values())),
        "steps": float(np.mean([r["summary"]["steps"] for r in runs.values()])) if runs else None,
        "seconds": float(np.mean([r["summary"]["seconds"] for r in runs.values()])) if runs else None,
        "cost": cost,
        "seconds_by_stage": {s: float(np.mean([x["seconds"].get(s, 0.0) for x in ledgers])) for s in STAGES if ledgers},
        "spent": {str(k): r["rows"][-1]["x"][axis] for k, r in runs.items()},
        "short": [k for k, r in runs.items() if r["rows"][-1]["x"][axis] < 0.999 * most],  # seconds are rounded
    }


def pass_at_1(share: np.ndarray, tasks: Sequence[tuple[str, str]]) -> float:
    """Mean over sources of the mean over their tasks."""
    return float(np.mean(list(_by_source(share, tasks).values())))


def _by_source(share: np.ndarray, tasks: Sequence[tuple[str, str]]) -> dict[str, float]:
    names = np.array([source for source, _ in tasks])
    return {s: float(share[names == s].mean()) for s in dict.fromkeys(names.tolist())}


def _sources(runs: Sequence[Json]) -> dict[str, float]:
    each = [_by_source(r["after"], r["tasks"]) for r in runs]
    return {s: float(np.mean([e[s] for e in each])) for s in (each[0] if each else {})}


def _pairs(runs: Mapping[str, Mapping[int, Json]], spread: Spread | None) -> dict[tuple[str, str], Difference]:
    """(arm, an earlier one) → difference over the seeds that both have finished, with Holm's correction over all."""
    found: dict[tuple[str, str], Difference] = {}
    for b, a in combinations(runs, 2):
        seeds = [s for s in runs[a] if s in runs[b]]
        if not seeds:
            continue
        tasks = runs[a][seeds[0]]["tasks"]
        if any(runs[n][s]["tasks"] != tasks for n in (a, b) for s in seeds):
            raise UserError(f"arms {a!r} and {b!r} were judged on different held-out tasks: choose another --out")
        x, y = (np.stack([runs[n][s]["after"] for s in seeds]) for n in (a, b))
        alike = None if spread is None or spread.unlike & {a, b} else spread
        found[a, b] = difference(x, y, [source for source, _ in tasks], alike)
    corrected = holm({k: d.p for k, d in found.items()})
    return {k: Difference(d.mean, d.low, d.high, d.p, d.seeds, corrected[k]) for k, d in found.items()}


def _better(pairs: Mapping[tuple[str, str], Difference], a: str, b: str) -> bool:
    """Whether `a` is shown to be better than `b`."""
    d = pairs.get((a, b)) or pairs[b, a]
    return d.told_apart and (d.mean > 0) == ((a, b) in pairs)


def _row(d: Difference) -> Json:
    verdict = "cannot be told apart" if not d.told_apart else "better" if d.mean > 0 else "worse"
    return {**asdict(d), "verdict": verdict}


def curves(runs: Mapping[str, Sequence[Json]]) -> Json:
    """{axis: {arm: {pass@1, reward: a curve or None}}}, of the axes along which every arm has spent something."""
    ends = [run["rows"][-1]["x"] for each in runs.values() for run in each]
    axes = [axis for axis in (*AXES, "steps") if all(x[axis] > 0 for x in ends)]
    return {
        axis: {label: {y: curve(each, y, axis) for y in ("pass@1", "reward")} for label, each in runs.items()}
        for axis in axes
    }


def curve(runs: Sequence[Json], y: str, axis: str) -> Json | None:
    """Mean, lowest and highest over the runs, at the same places of the axis; None with fewer than two points."""
    lines = [[(r["x"][axis], r[y]) for r in run["rows"] if r[y] is not None] for run in runs]
    if any(len(line) < 2 for line in lines):
        return None
    start, end = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    x = np.linspace(start, end, POINTS)
    values = np.stack([np.interp(x, [p[0] for p in line], _smooth([p[1] for p in line], y)) for line in lines])
    made = {"x": x, "mean": values.mean(0), "low": values.min(0), "high": values.max(0)}
    return {name: [float(f"{v:.5g}") for v in column] for name, column in made.items()}


def _smooth(values: Sequence[float], y: str) -> Sequence[float]:
    """Rewards as means over the last fifteenth of the run; evaluations as they are."""
    width = max(1, len(values) // 15) if y == "reward" else 1
    return [float(np.mean(values[max(0, i - width + 1) : i + 1])) for i in range(len(values))]
