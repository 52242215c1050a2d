"""Store what `temper compare` found as docs/claims/comparison.json and comparison.md.

    python -m studies.comparison FOLDER

FOLDER is the --out of a comparison. Nothing is typed by hand: figures come from compare.json and the runs beside it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from temper.compare.frame import amount
from temper.compare.plots import figures, ranked, words

Json = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "docs" / "claims"
NAME = "comparison"
KEPT = ("differences", "pass-at-1-by-sampled-tokens-panels")  # figures that the page shows
HARDLY = """## What the intervals allow to say, and what not

- They are about these recipes with these options, this model and these tasks, at this many tokens. Nothing was tuned
  for any method; with a learning rate that suits it better, one could change places with another.
- Arms that share a letter are not shown to be equal. With so few seeds only large differences show: see the sentence
  about what could not have been shown.
- Methods of environments (tools, games, search) are not in the table: they are played on other tasks, and a score there
  is not the same quantity. Each has its claim of its own.
- Equal sampled tokens are not equal work: the table of what was spent says who scores, trains and computes more.
"""


def record(folder: Path) -> Json:
    """The comparison as data: what was found, when, with which versions."""
    found = json.loads((folder / "compare.json").read_text())
    runs = sorted(folder.glob("*/seed-*/run.json"))
    first = json.loads(runs[0].read_text())
    cpu = {k: first["machine"][k] for k in ("processor", "cores")}
    found["curves"] = {found["axis"]: found["curves"][found["axis"]]}
    return {
        "kind": "comparison", "date": first["created"][:10], "versions": first["versions"], "machine": cpu,
        "revision": first["code"]["revision"], "result": found,
    }  # fmt: skip


def page(data: Json) -> str:
    """The comparison as Markdown."""
    found = data["result"]
    first, against = found["arms"][0]["label"], {r["arm"]: r for r in found["against_first"]}
    seeds = max(len(a["seeds"]) for a in found["arms"])
    lines = [
        f"# {len(found['arms'])} methods at equal compute",
        "",
        f"`{found['command']}`",
        "",
        f"{data['date']}, torch {data['versions']['torch']}, one thread a run. Each run ends after the step that"
        f" reaches {amount(found['budget'])} {words(found['axis'])}. The same seeds, tasks and random streams for every"
        " arm; pass@1 on held-out tasks after training. [How it is measured](../how-to-compare.md).",
        "",
        *(f"{line}\n" for line in found["reading"]),
        *(f"*{line}*\n" for line in found["notes"]),
        f"| arm | pass@1 | group | by seed | against {first} | 95 % interval | p (Holm) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(arm, against.get(arm["label"])) for arm in ranked(found)),
        "",
        f"Seeds: {seeds}. Arms that share a letter cannot be told apart. Only p is corrected over all pairs.",
        "",
        *(f"![{f.title}]({NAME}-{f.name}.svg)\n" for f in figures(found) if f.name in KEPT),
        HARDLY,
        "## What was spent",
        "",
        f"Means over the seeds. All runs together took {found['cpu_seconds'] / 60:.1f} minutes of one processor core."
        " Seconds in the table are wall seconds of a machine that did other things too.",
        "",
        "| arm | steps | optimiser steps | trained | scored | forward TFLOPs | backward TFLOPs | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_spent(arm) for arm in ranked(found)),
        "",
    ]
    return "\n".join(lines)


def _row(arm: Json, against: Json | None) -> str:
    each = " ".join(f"{v:.3f}" for v in arm["by_seed"].values())
    gap, span, p = ("", "", "")
    if against is not None:
        gap = f"{against['mean']:+.3f}"
        known = against["low"] is not None
        span = f"[{against['low']:+.3f}, {against['high']:+.3f}]" if known else "–"
        p = ("< 0.001" if against["holm"] < 0.001 else f"{against['holm']:.3f}") if known else "–"
    cells = [f"`{arm['recipe']}`", f"{arm['pass@1']:.3f}", arm["groups"], each, gap, span, p]
    return "| " + " | ".join(cells) + " |"


def _spent(arm: Json) -> str:
    cost = arm["cost"]
    flops = [f"{cost[n] / 1e12:.3f}" for n in ("forward_flops", "backward_flops")]
    tokens = [amount(cost[n]) for n in ("trained_tokens", "scored_tokens")]
    steps = [f"{arm['steps']:.1f}", f"{cost['optimiser_steps']:.0f}"]
    cells = [arm["label"], *steps, *tokens, *flops, f"{arm['seconds']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print(__doc__)
        return 2
    data = record(Path(argv[0]))
    (FOLDER / f"{NAME}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (FOLDER / f"{NAME}.md").write_text(page(data))
    for figure in figures(data["result"]):
        if figure.name in KEPT:
            shutil.copy(Path(argv[0]) / "plots" / f"{figure.name}.svg", FOLDER / f"{NAME}-{figure.name}.svg")
    print(FOLDER / f"{NAME}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
