"""Store what several runs of one command measured, as docs/claims/NAME.json and NAME.md.

    python studies/claim.py NAME "what is claimed" RUN [RUN …]

Every RUN is a finished run directory of the same recipe, one for each seed. Nothing is typed by hand: the figures come
from summary.json and run.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "claims"
KEPT = ("pass@1", "interval")


def record(claim: str, folders: list[Path]) -> dict[str, Any]:
    """The claim as data: command, date, versions, machine, and a row for each seed."""
    runs = [json.loads((f / "run.json").read_text()) for f in folders]
    found = [json.loads((f / "summary.json").read_text()) for f in folders]
    seeds = [
        {
            "seed": r["seed"],
            **{when: {k: s[when][k] for k in KEPT} for when in ("before", "after", "difference")},
            "tasks": {name: _task(s, name) for name in s["before"]["tasks"]},
            "seconds": s["seconds"],
            "tokens": s["tokens"],
        }
        for r, s in zip(runs, found, strict=True)
    ]
    return {
        "claim": claim,
        "command": f"temper run {runs[0]['recipe']} --seed N",
        "date": runs[0]["created"][:10],
        "revision": runs[0]["code"]["revision"],
        "versions": runs[0]["versions"],
        "machine": {k: runs[0]["machine"][k] for k in ("processor", "cores")},
        "method": found[0]["difference"]["method"],
        "seeds": seeds,
    }


def _task(summary: dict[str, Any], name: str) -> dict[str, Any]:
    before, after = summary["before"]["tasks"][name], summary["after"]["tasks"][name]
    change = summary["difference"]["tasks"][name]
    return {
        "trained": before["trained"],
        "before": before["pass@1"],
        "after": after["pass@1"],
        "change": change["pass@1"],
        "interval": change["interval"],
    }


def page(data: dict[str, Any]) -> str:
    """The claim as Markdown: a table over seeds, and one over tasks (means over seeds)."""
    seeds = data["seeds"]
    machine = data["machine"]
    lines = [
        f"# {data['claim']}",
        "",
        f"`{data['command']}`, {data['date']}, torch {data['versions']['torch']} on {machine['cores']} cores "
        f"({machine['processor']}). Interval: {data['method']}.",
        "",
        "| seed | before | after | change | 95 % interval | training, s | sampled tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_seed_row(s) for s in seeds),
        "",
        f"Means over {len(seeds)} seeds, with the smallest and largest change:",
        "",
        "| task | | before | after | change | from – to |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_task_row(name, seeds) for name in seeds[0]["tasks"]),
        "",
    ]
    return "\n".join(lines)


def _seed_row(s: dict[str, Any]) -> str:
    low, high = s["difference"]["interval"]
    before, after, change = (s[k]["pass@1"] for k in ("before", "after", "difference"))
    interval = f"[{low:+.3f}, {high:+.3f}]"
    cells = [s["seed"], f"{before:.3f}", f"{after:.3f}", f"{change:+.3f}", interval, f"{s['seconds']:.0f}"]
    return "| " + " | ".join(map(str, [*cells, f"{s['tokens']:,.0f}"])) + " |"


def _task_row(name: str, seeds: list[dict[str, Any]]) -> str:
    rows = [s["tasks"][name] for s in seeds]
    kind = "trained" if rows[0]["trained"] else "held out"
    before, after, change = (mean(r[k] for r in rows) for k in ("before", "after", "change"))
    low, high = min(r["change"] for r in rows), max(r["change"] for r in rows)
    return f"| {name} | {kind} | {before:.2f} | {after:.2f} | {change:+.2f} | {low:+.2f} – {high:+.2f} |"


def main(argv: list[str]) -> int:
    if len(argv) < 3:
        print(__doc__)
        return 2
    name, claim, *folders = argv
    data = record(claim, [Path(f) for f in folders])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (FOLDER / f"{name}.md").write_text(page(data))
    print(FOLDER / f"{name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
