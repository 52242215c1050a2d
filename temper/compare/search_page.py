"""search.html: what a search tried, what it gave up when, and what the winner is worth."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from temper.compare.frame import Frame, amount, limits, shorten, text
from temper.compare.page import cell, document, grid, number, plot, section
from temper.compare.plots import Figure, words
from temper.compare.search import DEFAULTS
from temper.ledger import budget_of

Json = Mapping[str, Any]


def render(found: Json) -> str:
    """The page of what `temper.compare.search.result` found."""
    axis, most = next(iter(budget_of(found["budget"]).items()))
    body = [
        f"<h1>{escape(' '.join(found['recipe']))}</h1>",
        f"<p class=lead>Successive halving over {escape(', '.join(found['grid']))}: one candidate in {found['cut']}"
        f" goes on, the last up to {amount(most)} {words(axis)}. The same seeds, tasks and random streams for all.</p>",
        section("What it says", *(f"<p>{escape(line)}</p>" for line in found["reading"]), _failed(found)),
        section("The winner on fresh seeds", fresh(found)),
        section("The search", plot(ladder(found)), tried(found), "<p class=lead>pass@1 on the half of the held-out"
                " tasks that the search looks at. These figures chose the winner: the best of them are too high.</p>"),
        section("How it was measured", f"<p><code>{escape(found['command'])}</code></p>"),
    ]  # fmt: skip
    return document(f"{found['recipe'][0]} · Temper search", "".join(body))


def fresh(found: Json) -> str:
    """Winner and defaults by seed."""
    by_seed = found["fresh"]["by_seed"]
    seeds = list(by_seed[DEFAULTS])
    rows = []
    for n in (found["winner"], DEFAULTS):
        mean = number(sum(by_seed[n].values()) / len(seeds))
        rows.append([cell(f"<b>{escape(n)}</b>", n), mean, *(number(by_seed[n][s]) for s in seeds)])
    return grid(["", "pass@1", *(f"seed {s}" for s in seeds)], rows)


def tried(found: Json) -> str:
    """Every candidate with its score in every rung that it reached, best first."""
    rungs = found["rungs"]
    order = {n: (len(rungs) - r, -rung["scores"][n]) for r, rung in enumerate(rungs) for n in rung["scores"]}
    best = sorted(order, key=order.__getitem__)
    rows = [[cell(escape(n), n), *(number(rung["scores"].get(n)) for rung in rungs)] for n in best]
    return grid(["candidate", *(escape(rung["budget"].replace("-", " ")) for rung in rungs)], rows)


def ladder(found: Json) -> Figure:
    """Scores from rung to rung: the winner in colour, the others in grey."""
    rungs, values = found["rungs"], [v for rung in found["rungs"] for v in rung["scores"].values()]
    frame = Frame(-0.15, max(len(rungs) - 1, 0.15) + 0.15, *limits(values), 62, 190, 14, 46, 300)
    out = [frame.up("pass@1 in the search")]
    for r, rung in enumerate(rungs):
        most = next(iter(budget_of(rung["budget"]).values()))
        out.append(text(frame.x(r), frame.floor + 18, amount(most), "middle"))
    axis = words(next(iter(budget_of(found["budget"]))))
    out.append(text((62 + frame.x(len(rungs) - 1)) / 2, 294, axis, "middle", "ink"))
    for n in reversed(rungs[0]["scores"]):
        reached = [(r, rung["scores"][n]) for r, rung in enumerate(rungs) if n in rung["scores"]]
        line = {"x": [r for r, _ in reached], "mean": [v for _, v in reached]}
        won = n == found["winner"]
        ends = "".join(
            f"<circle class='fill {'s0' if won else 's6 seed'}' cx='{frame.x(x):.1f}' cy='{frame.y(v):.1f}' r='4'/>"
            for x, v in zip(line["x"], line["mean"])
        )
        out.append(frame.line(line, "line s0" if won else "other", f"<title>{escape(n)}</title>") + ends)
        if won:
            out.append(text(frame.x(len(rungs) - 1) + 12, frame.y(line["mean"][-1]) + 4, shorten(n, 24), "start", "s0"))
    return Figure("search", "pass@1 of every candidate, from rung to rung", frame.high, "".join(out))


def _failed(found: Json) -> str:
    each = [rung["failed"] for rung in found["rungs"]] + [found["fresh"]["failed"]]
    rows = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for failed in each for k, v in failed.items())
    return f"<p class=bad>These runs failed, and are left out:</p><ul>{rows}</ul>" if rows else ""
