"""The small-scale check of a method: arms × seeds, measured alike, and what was found stored under docs/claims.

A study is a file with a `Check` and `main(CHECK)`, run as `python -m studies.NAME [--seeds 5]`. Every (arm, seed) is
measured once and kept under runs/checks/NAME, so that an interrupted study goes on where it stopped. Differences are
paired by seed. A measure is reproduced when the whole 95 % interval of its difference lies on the claimed side of 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER, KEPT = ROOT / "docs" / "claims", ROOT / "runs" / "checks"
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, two-sided, 1 … 9 degrees
Arm = Callable[[int, Path], dict[str, float]]  # (seed, an empty folder) → figures by name


@dataclass(frozen=True)
class Measure:
    """The claim that `figure` is higher in `arm` than in `against` (lower: the other way round)."""

    figure: str
    arm: str
    against: str
    text: str
    lower: bool = False


@dataclass(frozen=True)
class Check:
    """slug of the method; title; claim: the paper's own words' meaning and figure; setting: what is run here;
    exact: what the tests of the formula show, where that is part of the sheet's check; note: a plain reading;
    paper: its own number in short, and why it is not comparable where it is not."""

    slug: str
    title: str
    claim: str
    setting: str
    arms: dict[str, Arm]
    measures: Sequence[Measure]
    exact: str = ""
    note: str = ""
    paper: str = ""


def trained(recipe: Callable[..., Any], seed: int, folder: Path, **options: Any) -> dict[str, float]:
    """Run a recipe to its end; the figures of its summary, and the mean of every metric over the last fifth."""
    from temper.loop import train

    run = recipe(seed=seed, **options)
    run.out, run.threads = folder, 1
    asyncio.run(train(run))
    return figures_of(folder)


def figures_of(folder: Path) -> dict[str, float]:
    """The figures of a run's summary, and the mean of every metric over the last fifth of its steps."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    late = lines[-max(1, len(lines) // 5) :]
    keys = dict.fromkeys(k for x in late for k, v in x.items() if _number(v))  # some metrics are not in every step
    figures = {f"last/{k}": mean(x[k] for x in late if _number(x.get(k))) for k in keys}
    for when in ("before", "after"):
        if when in summary:
            figures[f"{when}/pass@1"] = summary[when]["pass@1"]
        right = summary.get("passes", {}).get(when)
        if right:  # tasks with a right answer among all attempts at them
            figures[f"{when}/any"] = mean(float(n > 0) for n in right)
    return figures | {"tokens": float(summary["tokens"])}


def main(check: Check, argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write docs/claims/SLUG.json and SLUG.md."""
    parser = argparse.ArgumentParser(description=check.title)
    parser.add_argument("--seeds", type=int, default=3, choices=range(2, len(T95) + 2), help="0 … N−1")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the stored figures")
    options = parser.parse_args(argv)
    stored = FOLDER / f"{check.slug}.json"
    if options.page:
        data = json.loads(stored.read_text()) | _words(check)
        data |= verdict(check.measures, data["figures"])
    else:
        if options.fresh:
            shutil.rmtree(KEPT / check.slug, ignore_errors=True)
        data = measure(check, range(options.seeds))
    FOLDER.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    stored.with_suffix(".md").write_text(page(data))
    print(page(data))
    return 0


def measure(check: Check, seeds: Sequence[int]) -> dict[str, Any]:
    """The check as data."""
    import torch

    torch.set_num_threads(1)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in check.arms}
    for seed in seeds:
        for name, arm in check.arms.items():
            figures[name].append(_once(check, name, arm, seed))
    return {
        "kind": "check",
        **_words(check),
        "command": f"python -m studies.{check.slug.replace('-', '_')} --seeds {len(seeds)}",
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": list(seeds),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "figures": figures,
        **verdict(check.measures, figures),
    }


def verdict(measures: Sequence[Measure], figures: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """{"measures": each with its difference and interval, "outcome": reproduced, partly or not reproduced}."""
    rows = []
    for m in measures:
        pairs = [(x[m.figure], y[m.figure]) for x, y in zip(figures[m.arm], figures[m.against], strict=True)]
        gap = interval([x - y for x, y in pairs])
        held = gap["high"] < 0 if m.lower else gap["low"] > 0
        arms = {
            "arm": m.arm,
            "mean": mean(x for x, _ in pairs),
            "against": m.against,
            "other": mean(y for _, y in pairs),
        }
        rows.append({"text": m.text, "figure": m.figure, **arms, **gap, "held": held, "lower": m.lower})
    held = sum(r["held"] for r in rows)
    outcome = "reproduced" if held == len(rows) else "partly reproduced" if held else "not reproduced"
    return {"measures": rows, "outcome": outcome}


def interval(differences: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval (Student's t) of 2 to 10 differences, paired by seed."""
    n, centre = len(differences), mean(differences)
    half = T95[n - 2] * stdev(differences) / n**0.5
    return {"difference": centre, "low": centre - half, "high": centre + half}


def page(data: dict[str, Any]) -> str:
    """The claim as Markdown."""
    lines = [
        f"# {data['title']}: {data['outcome']} at this scale",
        "",
        f"**Claim.** {data['claim']}",
        "",
        f"**Measured here.** {data['setting']}",
        "",
        f"`{data['command']}`, {data['date']}, {len(data['seeds'])} seeds, torch {data['versions']['torch']}, one "
        "thread. Differences are paired by seed; interval: Student's t, 95 %.",
        "",
        "| measure | arm | mean | against | mean | difference | 95 % interval | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(r) for r in data["measures"]),
        "",
    ]
    lines += [f"**The paper's own number.** {data['paper']}", ""] if data.get("paper") else []
    lines += [f"**Exact.** {data['exact']}", ""] if data["exact"] else []
    lines += [data["note"], ""] if data["note"] else []
    lines += ["Every run (" + "; ".join(f"{k}: {v}" for k, v in _each(data).items()) + ").", ""]
    return "\n".join(lines)


def _row(r: dict[str, Any]) -> str:
    span = f"[{r['low']:+.3f}, {r['high']:+.3f}]"
    cells = [
        r["text"],
        r["arm"],
        f"{r['mean']:.3f}",
        r["against"],
        f"{r['other']:.3f}",
        f"{r['difference']:+.3f}",
        span,
    ]
    return "| " + " | ".join([*cells, "holds" if r["held"] else "not shown"]) + " |"


def _each(data: dict[str, Any]) -> dict[str, str]:
    """{"arm, figure": the values by seed} of what the measures look at."""
    wanted = dict.fromkeys((arm, r["figure"]) for r in data["measures"] for arm in (r["arm"], r["against"]))
    return {f"{arm}, {figure}": " ".join(f"{x[figure]:.3f}" for x in data["figures"][arm]) for arm, figure in wanted}


def _words(check: Check) -> dict[str, Any]:
    return {k: getattr(check, k) for k in ("slug", "title", "claim", "setting", "exact", "note", "paper")}


def _once(check: Check, name: str, arm: Arm, seed: int) -> dict[str, float]:
    folder = KEPT / check.slug / f"{name.replace(' ', '-')}-s{seed}"
    done = folder.with_suffix(".json")
    if not done.exists():
        print(f"{check.slug}: {name}, seed {seed}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        figures = {k: float(v) for k, v in arm(seed, folder).items()}
        done.write_text(json.dumps(figures))
    found: dict[str, float] = json.loads(done.read_text())
    return found


def _number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)
