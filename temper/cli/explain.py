"""`temper explain`: what happened in a run, in sentences, out of its records; also of one that is still going."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from temper.diagnosis import diagnose, render
from temper.errors import UserError


def explain(run: Path, *, as_json: bool = False) -> int:
    """What happened in a run: pathologies with evidence and what to do, reliability, coverage and cost.

    run      a run directory, also of an old run or one that is still going
    as_json  print the same as JSON
    """
    phases = [run] if (run / "metrics.jsonl").exists() else sorted(p.parent for p in run.glob("*/metrics.jsonl"))
    if not run.is_dir():
        raise UserError(f"there is no directory {run}")
    if not phases:
        raise UserError(f"{run} is no run directory: it has no metrics.jsonl")
    found = {phase.name: of(phase) for phase in phases}
    if as_json:
        said: dict[str, Any] = {name: d.to_json() for name, d in found.items()}
        print(json.dumps(said if len(said) > 1 else next(iter(said.values())), indent=1, ensure_ascii=False))
        return 0
    for name, d in found.items():
        print("\n".join([*([name, ""] if len(found) > 1 else []), *render.lines(d)]))
    return 0


def of(folder: Path) -> Any:
    """The diagnosis of the run in `folder`, as far as its files can be read."""
    from temper.page.read import Notes, objects

    rows, described, summary = objects(folder, Notes())
    return diagnose(rows, described, summary)
