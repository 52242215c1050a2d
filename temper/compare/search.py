"""Successive halving over the options of a recipe, and the winner measured again where the search has not looked.

Every candidate is trained up to a part of the budget, the best of them go on from where they stopped, and so on up to
the whole budget (Jamieson & Talwalkar 2016). All have the same seeds, tasks and random streams. The best of many scores
is too high: it was chosen for its luck too. So the search sees only one half of the held-out tasks, and the winner and
the recipe's defaults are then trained with fresh seeds and judged on the other half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from temper.compare import runs
from temper.compare.arms import Arm, folder_of
from temper.compare.intervals import difference
from temper.compare.outcome import pass_at_1, read_run
from temper.compare.runs import Job
from temper.errors import UserError
from temper.ledger import budget_of, budget_text

Json = dict[str, Any]
DEFAULTS = "defaults"


@dataclass(frozen=True)
class Search:
    """recipe: its words; grid: {option: values}; budget: of a run; cut: one of so many goes on.

    looks   seeds of the search: 0 … looks − 1; seeds: fresh ones for the winner, which follow
    """

    recipe: tuple[str, ...]
    grid: Mapping[str, Sequence[str]]
    budget: str
    out: Path
    cut: int = 3
    looks: int = 1
    seeds: int = 3

    @property
    def candidates(self) -> list[Arm]:
        """One for every combination of the values."""
        found = []
        for values in product(*self.grid.values()):
            chosen = list(zip(self.grid, values))
            label = folder_of(" ".join(f"{name}={value}" for name, value in chosen))
            found.append(Arm(label, (*self.recipe, *(f"--{name}={value}" for name, value in chosen))))
        return found

    @property
    def sizes(self) -> list[int]:
        """Candidates in each rung; the last rung has the whole budget."""
        n, out = len(self.candidates), list[int]()
        while n > 1:
            out.append(n)
            n = -(-n // self.cut)
        return out

    def rung_budget(self, rung: int) -> str:
        (axis, most), last = next(iter(budget_of(self.budget).items())), len(self.sizes) - 1
        return budget_text(axis, most / self.cut ** (last - rung))

    @property
    def plan(self) -> Json:
        grid = {name: list(values) for name, values in self.grid.items()}
        return {"recipe": list(self.recipe), "grid": grid, "budget": self.budget, "cut": self.cut, "looks": self.looks}

    @property
    def cost(self) -> float:
        """What it will spend in all, in units of a run with the whole budget."""
        steps = [1 / self.cut ** (len(self.sizes) - 1 - r) for r in range(len(self.sizes))]
        climbed = sum(n * (b - a) for n, a, b in zip(self.sizes, [0.0, *steps], steps))
        return self.looks * climbed + 2 * self.seeds


def claim(search: Search) -> None:
    """Note what is searched; UserError when the folder holds another search."""
    path = search.out / "plan.json"
    try:
        if path.is_file() and json.loads(path.read_text()) != search.plan:
            raise UserError(f"{search.out} holds another search: choose another --out")
        search.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(search.plan, indent=1))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use {search.out} ({type(error).__name__}: {error}): choose another --out")


def climb(search: Search, train: Callable[[list[Job]], dict[str, str]]) -> list[Json]:
    """All rungs, those that are finished from where they were noted; train: runs jobs, {job: why it failed}.

    A rung is {budget, scores: {candidate: pass@1 on the search's half}, failed}, best first.
    """
    path = search.out / "rungs.json"
    try:
        done: list[Json] = json.loads(path.read_text()) if path.is_file() else []
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and search again; finished runs are kept")
    arms = {arm.label: arm for arm in search.candidates}
    for rung in range(len(done), len(search.sizes)):
        left = list(done[-1]["scores"])[: search.sizes[rung]] if done else list(arms)
        budget = search.rung_budget(rung)
        jobs = runs.jobs([arms[n] for n in left], range(search.looks), search.out / "candidates", budget)
        failed = train(jobs)
        scores = {n: scored([j for j in jobs if j.arm.label == n], search_half=True) for n in left}
        finished = {n: float(np.mean(s)) for n, s in scores.items() if s is not None}
        if not finished:
            raise UserError(f"every candidate failed: {next(iter(failed.values()), 'none finished')}")
        ordered = dict(sorted(finished.items(), key=lambda item: -item[1]))
        done.append({"budget": budget, "scores": ordered, "failed": failed})
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(done, indent=1))
        partial.replace(path)
    return done


def scored(jobs: Sequence[Job], search_half: bool) -> list[float] | None:
    """pass@1 of each run on one half of its held-out tasks; None when one is not finished."""
    if not all(job.done for job in jobs):
        return None
    found = [read_run(job.folder) for job in jobs]
    kept = half(found[0]["tasks"], search_half)
    return [pass_at_1(r["after"][kept], [r["tasks"][i] for i in kept]) for r in found]


def half(tasks: Sequence[tuple[str, str]], first: bool) -> list[int]:
    """Places of every other task of each source: those that the search looks at, or the rest."""
    seen: dict[str, int] = {}
    out = []
    for place, (source, _) in enumerate(tasks):
        n = seen[source] = seen.get(source, -1) + 1
        out += [place] if (n % 2 == 0) == first else []
    return out


def measure(search: Search, winner: str, train: Callable[[list[Job]], dict[str, str]]) -> Json:
    """The winner and the defaults with fresh seeds on the other half: scores, paired difference, failures."""
    chosen = next(arm for arm in search.candidates if arm.label == winner)
    arms = [Arm(winner, chosen.words), Arm(DEFAULTS, search.recipe)]
    fresh = range(search.looks, search.looks + search.seeds)
    jobs = runs.jobs(arms, fresh, search.out / "fresh", search.budget)
    failed = train(jobs)
    found = {arm.label: {j.seed: read_run(j.folder) for j in jobs if j.arm is arm and j.done} for arm in arms}
    both = [s for s in fresh if all(s in each for each in found.values())]
    if not both:
        raise UserError(f"no fresh seed of both is finished: {next(iter(failed.values()), 'none was trained')}")
    tasks = found[winner][both[0]]["tasks"]
    kept = half(tasks, first=False)
    x, y = (np.stack([found[n][s]["after"][kept] for s in both]) for n in (winner, DEFAULTS))
    names = [tasks[i] for i in kept]
    by_seed = {n: {str(s): pass_at_1(v, names) for s, v in zip(both, z)} for n, z in ((winner, x), (DEFAULTS, y))}
    gap = asdict(difference(x, y, [source for source, _ in names]))
    return {"by_seed": by_seed, "tasks": len(kept), "difference": gap, "failed": failed}


def result(search: Search, rungs: Sequence[Json], fresh: Json, command: str) -> Json:
    """Everything that the page shows."""
    winner, in_search = next(iter(rungs[-1]["scores"].items()))
    found = {
        **search.plan, "command": command, "winner": winner, "in_search": in_search, "rungs": list(rungs),
        "fresh": fresh, "cost": search.cost,
    }  # fmt: skip
    return {**found, "reading": reading(found)}


def reading(found: Json) -> list[str]:
    """The result in sentences."""
    fresh, winner = found["fresh"], found["winner"]
    mine, theirs = (float(np.mean(list(fresh["by_seed"][n].values()))) for n in (winner, DEFAULTS))
    gap, n = fresh["difference"], len(fresh["by_seed"][winner])
    out = [
        f"Best of {len(found['rungs'][0]['scores'])} candidates: {winner}. In the search its pass@1 was"
        f" {found['in_search']:.3f}; it was chosen for being high, so that figure is no result.",
        f"With {n} fresh seeds, on {fresh['tasks']} tasks that the search has not looked at: {mine:.3f}. The recipe's"
        f" defaults: {theirs:.3f}.",
    ]
    if gap["low"] is None:
        return [*out, f"The difference is {gap['mean']:+.3f}; one seed has no interval."]
    span = f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
    if gap["low"] <= 0 <= gap["high"]:
        return [*out, f"The difference, {span}, leaves open whether the search has found anything better."]
    return [*out, f"The winner is {'better' if gap['mean'] > 0 else 'worse'} than the defaults by {span}."]
