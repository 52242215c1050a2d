"""`temper replay`: what other methods would have done with the rollouts of a recorded step."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from temper.errors import UserError

TITLES = ("method", "cosine", "norm", "norm / own", "effective attempts", "tokens used", "clipped", "credit moved")


def replay(run: Path, *, step: int = 0, with_: tuple[str, ...] = (), out: Path | None = None, threads: int = 1) -> int:
    """What another estimator, gate or loss would have done with the rollouts of a recorded step.

    run      a run directory (of a run with phases, a phase's) with steps that --record-steps kept
    step     which of them (default: the last)
    with_    recipes or methods to ask, as in dr-grpo,rloo or "dapo --clip-high 0.3"; NAME, FILE.py or FILE.py:function
    out      where the page and the JSON go (default: beside the recorded step)
    threads  of torch
    """
    import torch

    from temper.replay import record
    from temper.replay.methods import named
    from temper.replay.outcome import replay as compute
    from temper.replay.page import write

    torch.set_num_threads(max(1, threads))
    if not run.is_dir():
        raise UserError(f"there is no directory {run}")
    known = record.steps_in(run)
    recorded = record.read(run, step or (known[-1] if known else 1))
    rebuilt, own = rebuild(run)
    others = [named(text, own) for text in with_]
    found = compute(rebuilt, recorded, others, own=rebuilt.name)
    found |= {"run": run.resolve().name, "check": check(run, recorded.step, found["methods"][0])}
    folder = out or run / record.FOLDER / f"step_{recorded.step:06d}"
    page, data = write(folder, found)
    print("\n".join([*table(found), "", f"page    {page}", f"data    {data}"]))
    return 0


def rebuild(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The run that run.json of `folder` tells of, not open; and the options that it had, defaults included."""
    from temper.cli import run as command
    from temper.recipe import REQUIRED, signature

    asked = command.resolve(["--resume", str(folder)])
    made = command._made(asked, {"out": folder} if asked.takes_out else {})
    runs = list(made) if isinstance(made, (list, tuple)) else [made]
    phase = re.match(r"(\d+)-", folder.resolve().name)
    if len(runs) > 1 and phase is None:
        raise UserError(f"{folder} has {len(runs)} phases: name the directory of one, as in {folder}/1-{runs[0].name}")
    known = signature(asked.target.load())
    own = {o.name: o.default for o in known if o.default is not REQUIRED} | dict(asked.given)
    return runs[int(phase[1]) - 1 if len(runs) > 1 and phase else 0], own


def check(folder: Path, step: int, own: dict[str, Any]) -> dict[str, Any]:
    """The replayed norm beside the one that metrics.jsonl has, where the step was one optimiser step."""
    if own.get("optimiser_steps") != 1:
        return {}
    try:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return {}
    norm = next((r.get("grad_norm") for r in rows if r.get("step") == step), None)
    return {} if not norm else {"recorded_norm": norm, "apart": abs(own["norm"] - norm) / norm}


def table(found: dict[str, Any]) -> list[str]:
    """The methods as aligned lines, and what the figures mean."""
    from temper.console import aligned, bold

    rows = [list(TITLES)]
    for m in found["methods"]:
        if "error" in m:
            continue
        attempts = f"{m['effective_trajectories']:.1f} of {m['trajectories']}"
        figures = [(m["cosine"], ".4f"), (m["norm"], ".4g"), (m["ratio"], ".3f")]
        shares = [(m["used"], ".0%"), (m["clipped"], ".1%"), (m.get("moved"), ".0%")]
        rows.append([m["method"], *(_figure(*x) for x in figures), attempts, *(_figure(*x) for x in shares)])
    lines = aligned(rows)
    sizes = f"{found['groups']} groups, {found['trajectories']} attempts, {found['tokens']:,} tokens"
    out = [f"step {found['step']}: {sizes}", "", bold(lines[0]), "─" * len(lines[0]), *lines[1:]]
    out += [f"{m['method']}: {m['error']}" for m in found["methods"] if "error" in m]
    if found.get("check"):
        c = found["check"]
        out += [
            "",
            f"the run recorded a gradient norm of {c['recorded_norm']:.6g}; replayed, it is {c['apart']:.1e} apart",
        ]
    return out


def _figure(x: float | None, how: str) -> str:
    return "–" if x is None else format(x, how)
