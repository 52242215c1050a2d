"""`temper search`: options of a recipe by successive halving, with the winner measured on fresh seeds."""

from __future__ import annotations

import json as json_
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from temper.cli import fail, options
from temper.cli.compare import split
from temper.compare import runs
from temper.compare.arms import Arm, check, words_of
from temper.compare.search import DEFAULTS, Search, claim, climb, half, measure, result
from temper.compare.search_page import render
from temper.errors import UserError
from temper.recipe import signature
from temper.report import clean


def settings(
    *,
    budget: str = "200k-sampled-tokens",
    cut: int = 3,
    looks: int = 1,
    seeds: int = 3,
    out: Path = Path("runs/search"),
    jobs: int = 1,
    launch: str = "",
    json: bool = False,
) -> None:
    """Options of a search.

    budget  of the longest runs; candidates that are given up earlier spend a part of it
    cut     one candidate in so many goes on to the next rung, with so many times the budget
    looks   seeds that every candidate is trained with
    seeds   fresh seeds for the winner and for the recipe's defaults
    out     the folder of the search: search.html is the page
    jobs    runs at once, each with one thread
    launch  words before every run's command, such as "srun -n 1 -c 2" on a cluster that shares the folder
    json    print the result as JSON
    """


OPTIONS = signature(settings)
HELP = """temper search RECIPE --try OPTION=VALUE,VALUE … [--try …] [--option value …] [-- options of every run]

Train every combination of the values up to a part of the budget, let the best go on, and measure the winner beside the
recipe's defaults with fresh seeds, on held-out tasks that the search has not looked at.

Called again, the same command keeps finished runs and goes on.
"""


def search(argv: Sequence[str]) -> int:
    """The command: climb the rungs, measure the winner, write search.json and search.html."""
    if not argv or options.wants_help(argv):
        print("\n".join([HELP, *options.table(OPTIONS)]))
        return 0
    grid, rest = tried(argv)
    texts, asked, common = split(rest, OPTIONS)
    if len(texts) != 1:
        raise UserError(f"a search is about one recipe, with its options in one quoted string; got {len(texts)}")
    for name, least in (("cut", 2), ("looks", 1), ("seeds", 1), ("jobs", 1)):
        if asked[name] < least:
            raise UserError(f"--{name} must be at least {least}, got {asked[name]}")
    words = words_of(texts[0])
    plan = Search((words[0], *common, *words[1:]), grid, asked["budget"], asked["out"], asked["cut"], asked["looks"],
                  asked["seeds"])  # fmt: skip
    if len(plan.candidates) < 2:
        raise UserError("there is nothing to choose: give --try two values, as in --try lr=1e-4,3e-4")
    tasks = check([Arm(DEFAULTS, plan.recipe), *plan.candidates], asked["budget"])
    if {tasks[i][0] for i in half(tasks, first=False)} < {source for source, _ in tasks}:
        raise UserError("a search needs two held-out tasks of every kind, one for each half: see --eval-tasks")
    claim(plan)
    to = sys.stderr if asked["json"] else sys.stdout

    def say(line: str) -> None:
        print(line, file=to, flush=True)

    def train(jobs: list[runs.Job]) -> dict[str, str]:
        say(f"{len({j.arm for j in jobs})} arms up to {jobs[0].budget.replace('-', ' ')}")
        return runs.train(jobs, asked["jobs"], say, shlex.split(asked["launch"]))

    say(f"{len(plan.candidates)} candidates; all together the compute of {plan.cost:.1f} runs of {asked['budget']}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated search stops its runs too
    try:
        rungs = climb(plan, train)
        fresh = measure(plan, next(iter(rungs[-1]["scores"])), train)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    found = clean(result(plan, rungs, fresh, shlex.join(["temper", "search", *argv])))
    text = json_.dumps(found, indent=1, ensure_ascii=False)
    (plan.out / "search.json").write_text(text + "\n", encoding="utf-8")
    (plan.out / "search.html").write_text(render(found), encoding="utf-8")
    print(text if asked["json"] else "\n".join(["", *found["reading"], "", f"page      {plan.out / 'search.html'}"]))
    return 1 if fresh["failed"] else 0


def tried(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({option: values} of every --try, the other words)."""
    grid: dict[str, list[str]] = {}
    words, rest = list(argv), list[str]()
    while words:
        word = words.pop(0)
        if word == "--":
            return grid, [*rest, word, *words]
        if word != "--try" and not word.startswith("--try="):
            rest.append(word)
            continue
        text = word[6:] if word != "--try" else words.pop(0) if words else ""
        name, equals, values = text.partition("=")
        found = [v.strip() for v in values.split(",") if v.strip()]
        if not name or not equals or not found:
            raise UserError(f"--try looks like lr=1e-4,3e-4, not {text!r}")
        if name in grid or len(set(found)) < len(found):
            raise UserError(f"--try {name} is given twice, or has a value twice")
        grid[name.replace("_", "-")] = found
    return grid, rest
