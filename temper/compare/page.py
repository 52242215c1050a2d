"""compare.html: what was found, in one file without network: sentences, tables that sort, curves to choose."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from temper.compare.frame import COLOURS, PLAIN, amount, rules
from temper.compare.plots import Figure, colour, curves, differences, matrix, panels, position, ranked, scores, words

Json = Mapping[str, Any]
DARK = ("#74aef2", "#e9a05c", "#c69adb", "#57c4bd", "#f0808d", "#bcc95c", "#9eacba", "#e6c04f")
STAGES = {
    "rollout": "seconds of rollouts", "update": "seconds of updates", "reward": "seconds of rewards, added up",
    "tools": "seconds of tools, added up", "environment": "seconds of environments, added up",
    "idle": "seconds without work for a model",
}  # fmt: skip


def render(found: Json) -> str:
    """The page of what `temper.compare.outcome.read` found."""
    labels = [a["label"] for a in found["arms"]]
    axis = words(found["axis"])
    body = [
        f"<h1>{escape(', '.join(labels) if len(labels) < 6 else f'{len(labels)} methods')}</h1>",
        f"<p class=lead>Each run ends after the step that reaches {amount(found['budget'])} {axis}. The same seeds,"
        " tasks and random streams for every arm; pass@1 on held-out tasks after training.</p>",
        section("What it says", *(f"<p>{escape(line)}</p>" for line in found["reading"]),
                *(f"<p class=note>{escape(line)}</p>" for line in found["notes"]), _failed(found["failed"])),
        section("Result", "<p class=tools><input id=filter type=search placeholder='filter arms'"
                " aria-label='filter arms'></p>", table(found), plot(scores(found))),
        section(f"Against {labels[0]}", plot(differences(found)) or "<p class=lead>No intervals: two seeds of an arm"
                " and of the first are needed.</p>", plot(matrix(found))),
        section("Curves", legend(found), choice(found), *_curves(found),
                "<p class=lead>Line: mean over the seeds. Band: lowest to highest seed. Rewards: means over a fifteenth"
                " of the run.</p>"),
        section("By kind of task", sources(found)),
        section("What was spent", costs(found)),
        section("How it was measured", method(found)),
    ]  # fmt: skip
    return document(" · ".join(labels) + " · Temper comparison", "".join(body))


def document(title: str, body: str) -> str:
    """A page with its style and script; it may load nothing."""
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:"
    colours = "".join(f"--c{n}:light-dark({a},{b});" for n, (a, b) in enumerate(zip(COLOURS, DARK)))
    style += f":root{{{colours}}}" + rules(
        [f"var(--c{n})" for n in range(8)], "var(--ink)", "var(--soft)", "var(--line)"
    )
    style += "".join(f"i.s{n},b.s{n}{{--c:var(--c{n})}}b.s{n}{{color:var(--c)}}" for n in range(8))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><main>{body}</main><template id=plain>{PLAIN}</template>"
        f"<script>{script}</script></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def plot(figure: Figure | None, more: str = "") -> str:
    """A figure with its title and the buttons that save it."""
    if figure is None:
        return ""
    buttons = "<button data-save=svg>SVG</button><button data-save=png>PNG</button>"
    title = f"<figcaption><span>{escape(figure.title)}</span>{buttons}</figcaption>"
    return f"<figure{more}>{title}<div class=plot>{figure.inline()}</div></figure>"


def table(found: Json) -> str:
    """Arms by their mean, with the difference to the first."""
    first = found["arms"][0]["label"]
    against = {row["arm"]: row for row in found["against_first"]}
    head = ["arm", "pass@1", "group", f"against {first}", "95 % interval", "p (Holm)", "rank", "before", "seeds"]
    rows, arms = [], [*ranked(found), *(a for a in found["arms"] if not a["seeds"])]
    for arm in arms:
        row = against.get(arm["label"], {})
        title = f"<b class={colour(found, arm['label'])}>{escape(arm['label'])}</b>"
        seeds = ", ".join(f"{v:.3f}" for v in arm["by_seed"].values())
        rows.append([
            cell(f"{title}<br><code>{escape(arm['recipe'])}</code>", arm["label"]), number(arm["pass@1"]),
            cell(arm["groups"], arm["groups"]), number(row.get("mean"), "+.3f"), cell(span(row), row.get("low")),
            cell(probability(row), row.get("holm")), number(arm["rank"], "d"), number(arm["before"]),
            cell(f"<span title='{seeds}'>{len(arm['seeds'])}</span>", len(arm["seeds"])),
        ])  # fmt: skip
    return grid(head, rows, [position(found, a["label"]) for a in arms]) + (
        "<p class=lead>Arms that share a letter cannot be told apart; those that share none can. Rank: 1, and 1 more"
        " for every arm that is shown to be better (corrected p below 0.05).</p>"
    )


def sources(found: Json) -> str:
    """pass@1 of every source of tasks."""
    arms = ranked(found)
    names = list(arms[0]["sources"]) if arms else []
    rows = [[_arm(found, a), number(a["pass@1"]), *(number(a["sources"].get(n)) for n in names)] for a in arms]
    return grid(["arm", "mean", *map(escape, names)], rows, [position(found, a["label"]) for a in arms])


def costs(found: Json) -> str:
    """Means over the seeds of what the ledger counted."""
    arms = [a for a in ranked(found) if a["cost"]]
    names = [n for n in dict.fromkeys(n for a in arms for n in a["cost"]) if any(a["cost"].get(n) for a in arms)]
    stages = [s for s in STAGES if any(a["seconds_by_stage"].get(s) for a in arms)]
    head = ["arm", "steps", "seconds", *(words(n) for n in names), *(STAGES[s] for s in stages)]
    rows = [
        [_arm(found, a), *(number(a[n], ".1f") for n in ("steps", "seconds")),
         *(quantity(a["cost"].get(n)) for n in names), *(number(a["seconds_by_stage"].get(s), ".1f") for s in stages)]
        for a in arms
    ]  # fmt: skip
    return grid(head, rows, [position(found, a["label"]) for a in arms])


def method(found: Json) -> str:
    """How to run it again, how intervals were made, and the report of every run."""
    arms = [a for a in found["arms"] if a["seeds"]]
    links = [
        f"<li>{escape(a['label'])}: seed "
        + ", ".join(f"<a href='{quote(a['label'])}/seed-{s}/report.html'>{s}</a>" for s in a["seeds"])
        for a in arms
    ]
    together = "" if found["spread"] is None else (
        " The spread over seeds is the larger of the pair’s own and that of all arms together, as if all spread alike"
        f" ({found['spread']['one']:.4f} a run, {found['spread']['degrees']} degrees of freedom)."
    )  # fmt: skip
    cpu = found.get("cpu_seconds")
    used = "" if cpu is None else f"<p>All runs together: {cpu / 60:.1f} minutes of one processor core.</p>"
    return (
        f"<p><code>{escape(found['command'])}</code></p>{used}<p class=lead>Differences are paired: by seed, and by"
        " task in a seed. Their errors over seeds and over tasks are bootstrapped, each taken times its own quantile of"
        f" Student’s t, and added as squares.{together} p is corrected by Holm’s method over all pairs of arms;"
        " intervals are not. What is found holds for these options, this model and these tasks. Every run has its own"
        " report:</p>"
        f"<ul>{''.join(links)}</ul>"
    )


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], arms: Sequence[int] = ()) -> str:
    """A table that sorts by its heads; heads and cells are HTML, cells with their <td>. arms: whose row each is."""
    heads = "".join(f"<th><button>{h}</button></th>" for h in head)
    marks = [f" data-arm={n}" for n in arms] or [""] * len(rows)
    body = "".join(f"<tr{m}>{''.join(row)}</tr>" for m, row in zip(marks, rows))
    return f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def cell(content: str, value: Any = None) -> str:
    return f"<td data-v='{escape('' if value is None else str(value))}'>{content}</td>"


def number(x: float | None, how: str = ".3f") -> str:
    return cell("–" if x is None else format(x, how), x)


def quantity(x: float | None) -> str:
    return cell(amount(x), x)


def probability(row: Json) -> str:
    if row.get("low") is None:
        return "–"
    return "&lt; 0.001" if row["holm"] < 0.001 else f"{row['holm']:.3f}"


def span(row: Json) -> str:
    return "–" if row.get("low") is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"


def legend(found: Json) -> str:
    """A button for every arm with a curve."""
    keys = "".join(
        f"<button data-toggle={n} aria-pressed=true><i class=s{n % 8}></i>{escape(a['label'])}</button>"
        for n, a in enumerate(found["arms"]) if a["seeds"]
    )  # fmt: skip
    return f"<p class=tools>{keys}<button data-all=all>all</button><button data-all=none>none</button></p>"


def choice(found: Json) -> str:
    """What is on the x axis."""
    options = "".join(
        f"<option value='{a}'{' selected' if a == found['axis'] else ''}>{words(a)}</option>" for a in found["curves"]
    )
    return f"<p class=tools><label>by <select id=axis>{options}</select></label></p>"


def _curves(found: Json) -> list[str]:
    out = []
    for axis in found["curves"]:
        more = f" data-axis='{axis}'{'' if axis == found['axis'] else ' hidden'}"
        for y in ("pass@1", "reward"):
            each = panels(found, y, axis) if axis == found["axis"] else None
            out += [plot(curves(found, y, axis), more), plot(each, more)]
    return out


def _arm(found: Json, arm: Json) -> str:
    return cell(f"<b class={colour(found, arm['label'])}>{escape(arm['label'])}</b>", arm["label"])


def _failed(failed: Mapping[str, str]) -> str:
    rows = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in failed.items())
    return f"<p class=bad>These runs failed, and are left out:</p><ul>{rows}</ul>" if rows else ""


def _asset(name: str) -> str:
    return (files("temper.compare") / name).read_text(encoding="utf-8")
