"""`temper compare`: recipes with options, side by side at equal compute."""

from __future__ import annotations

import json as json_
import resource
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from temper.cli import fail, options
from temper.compare import outcome, plots, runs
from temper.compare.arms import arms_of, check
from temper.compare.page import render
from temper.console import aligned
from temper.errors import UserError
from temper.ledger import budget_of
from temper.recipe import Option, signature
from temper.report import clean


def settings(
    *,
    seeds: int = 5,
    budget: str = "200k-sampled-tokens",
    out: Path = Path("runs/compare"),
    jobs: int = 1,
    launch: str = "",
    json: bool = False,
) -> None:
    """Options of a comparison.

    seeds   every arm is trained with seeds 0 … N−1
    budget  what ends each run, as in 2M-sampled-tokens; also trained-tokens, scored-tokens, judge-tokens, judge-calls,
            tool-calls, flops, forward-flops, backward-flops, seconds, environment-seconds
    out     the folder of the comparison: ARM/seed-N are ordinary run directories, compare.html is the page
    jobs    runs at once, each with one thread
    launch  words before every run's command, such as "srun -n 1 -c 2" on a cluster that shares the folder
    json    print the result as JSON
    """


OPTIONS = signature(settings)
HELP = """temper compare RECIPE RECIPE … [--option value …] [-- options of every arm]

Train recipes with the same seeds, tasks and random streams up to equal compute, and say which can be told apart.

An arm is a recipe with its options in one quoted string: "grpo --clip 0.28", or "mine: grpo --clip 0.28" to name it.
The others are compared with the first. Called again, the same command keeps finished runs and goes on.
"""


def compare(argv: Sequence[str]) -> int:
    """The command: train what is missing, then write compare.json and compare.html."""
    if not argv or options.wants_help(argv):
        print("\n".join([HELP, *options.table(OPTIONS)]))
        return 0
    texts, asked, common = split(argv, OPTIONS)
    for name in ("seeds", "jobs"):
        if asked[name] < 1:
            raise UserError(f"--{name} must be at least 1, got {asked[name]}")
    arms = arms_of(texts, common)
    check(arms, asked["budget"])
    runs.claim(arms, asked["budget"], asked["out"])
    jobs = runs.jobs(arms, range(asked["seeds"]), asked["out"], asked["budget"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated comparison stops its runs too
    before = cpu_seconds()
    try:
        failed = runs.train(jobs, asked["jobs"], _say(asked["json"]), shlex.split(asked["launch"]))
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    command = shlex.join(["temper", "compare", *argv])
    found = outcome.read(jobs, budget_of(asked["budget"]), failed, command)
    found["cpu_seconds"] = round(_earlier(asked["out"]) + cpu_seconds() - before, 1)
    return _tell(found, asked["out"], asked["json"])


def split(argv: Sequence[str], known: Sequence[Option]) -> tuple[list[str], dict[str, Any], list[str]]:
    """(recipes, options with their defaults, what follows --)."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    count = next((n for n, word in enumerate(words[:end]) if word.startswith("--")), end)
    return words[:count], {o.name: o.default for o in known} | options.parse(words[count:end], known), words[end + 1 :]


def cpu_seconds() -> float:
    """Processor time of the runs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _earlier(out: Path) -> float:
    """What the comparison had used when it was last written down."""
    try:
        return float(json_.loads((out / "compare.json").read_text())["cpu_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _tell(found: dict[str, Any], out: Path, as_json: bool) -> int:
    """Write both files and print the result; 1 when a run failed."""
    result = clean(found)
    text = json_.dumps(result, indent=1, ensure_ascii=False)
    (out / "compare.json").write_text(text + "\n", encoding="utf-8")
    page = out / "compare.html"
    page.write_text(render(result), encoding="utf-8")
    kinds = plots.write(result, out / "plots")
    made = [f"page      {page}", f"plots     {out / 'plots'} ({kinds})"]
    print(text if as_json else "\n".join([*lines(result), "", *made]))
    return 1 if result["failed"] else 0


def _say(as_json: bool) -> Callable[[str], None]:
    return lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True)


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table and sentences."""
    against = {row["arm"]: row for row in result["against_first"]}
    rows = [
        [
            "rank",
            "group",
            "arm",
            "seeds",
            "pass@1",
            f"against {result['arms'][0]['label']}",
            "95 % interval",
            "p (Holm)",
        ]
    ]
    for arm in sorted(result["arms"], key=lambda a: -(a["pass@1"] or 0.0)):
        row = against.get(arm["label"])
        score = "–" if arm["pass@1"] is None else f"{arm['pass@1']:.3f}"
        rows.append([str(arm["rank"] or "–"), arm["groups"], arm["label"], str(len(arm["seeds"])), score, *_cells(row)])
    return [
        "",
        *aligned(rows),
        "",
        *result["reading"],
        *result["notes"],
        *(f"{k}: {v}" for k, v in result["failed"].items()),
    ]


def _cells(row: dict[str, Any] | None) -> list[str]:
    if row is None or row["low"] is None:
        return ["" if row is None else f"{row['mean']:+.3f}", "", ""]
    return [f"{row['mean']:+.3f}", f"[{row['low']:+.3f}, {row['high']:+.3f}]", f"{row['holm']:.3f}"]
