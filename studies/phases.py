"""Arms of recipes that train in phases."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from temper.run import Run


def trained_in_phases(
    recipe: Callable[..., list[Run]],
    seed: int,
    folder: Path,
    watch: Callable[[Run], None] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Figures of the last phase: pass@1 before and after it, the mean of every metric over its last fifth and over all.

    watch  may add probes or stages to the last phase; cpu: seconds of processor time of all phases, children's included
    """
    from temper.loop import train_all

    phases = recipe(seed=seed, out=folder, **options)
    for n, phase in enumerate(phases):
        phase.out = folder if len(phases) == 1 else folder / f"{n + 1}-{phase.name}"
        phase.threads = 1
    if watch is not None:
        watch(phases[-1])
    began = sum(os.times()[:4])
    asyncio.run(train_all(phases))
    out = Path(str(phases[-1].out))
    summary = json.loads((out / "summary.json").read_text())
    lines = [x for x in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if x.get("step")]
    figures = {"cpu": sum(os.times()[:4]) - began, "tokens": float(summary["tokens"])}
    for name, part in (("last", lines[-max(1, len(lines) // 5) :]), ("all", lines)):
        keys = {k for x in part for k, v in x.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        figures |= {f"{name}/{k}": mean(x[k] for x in part if x.get(k) is not None) for k in sorted(keys)}
    return figures | {f"{when}/pass@1": summary[when]["pass@1"] for when in ("before", "after") if when in summary}
