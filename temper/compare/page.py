"""compare.html: curves, differences and the table of a comparison in one file without script or network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

Json = Mapping[str, Any]
WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 62, 14, 18, 40
POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render(found: Json) -> str:
    """The page of what `temper.compare.outcome.read` found."""
    labels = [a["label"] for a in found["arms"]]
    style = (files("temper.compare") / "page.css").read_text(encoding="utf-8")
    axis = found["axis"].replace("_", " ")
    parts = [
        f"<h1>{escape(', '.join(labels))}</h1>",
        f"<p class=lead>Each run ends after the step that reaches {amount(found['budget'])} {axis}. The same seeds,"
        " tasks and random streams for every arm; pass@1 on held-out tasks after training.</p>",
        "<section><h2>What it says</h2>", *(f"<p>{escape(line)}</p>" for line in found["reading"]),
        *(f"<p class=note>{escape(line)}</p>" for line in found["notes"]), _failed(found["failed"]), "</section>",
        "<section><h2>Result</h2>", table(found), "</section>",
        f"<section><h2>Against {escape(labels[0])}</h2>", forest(found, labels), "</section>",
        "<section><h2>Curves</h2>", legend(labels),
        chart(found, "pass@1", f"pass@1 on held-out tasks, by {axis}", labels),
        chart(found, "reward", f"reward in training, by {axis}", labels),
        "<p class=lead>Line: mean over the seeds. Band: lowest to highest seed. Rewards: means over a"
        " fifteenth of the run.</p></section>",
        "<section><h2>By kind of task</h2>", sources(found), "</section>",
        "<section><h2>What was spent</h2>", costs(found), "</section>",
        "<section><h2>How it was measured</h2>", method(found), "</section>",
    ]  # fmt: skip
    head = '<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width">'
    title = f"<title>{escape(' · '.join(labels))} · Temper comparison</title>"
    return f"{head}{POLICY}{title}<style>{style}</style></head><body><main>{''.join(parts)}</main></body></html>\n"


def table(found: Json) -> str:
    """Arms by their mean, with the difference to the first."""
    first = found["arms"][0]["label"]
    against = {row["arm"]: row for row in found["against_first"]}
    head = ["rank", "arm", "seeds", "pass@1", "before", f"against {first}", "95 % interval", "p (Holm)"]
    rows = []
    for arm in sorted(found["arms"], key=lambda a: -(a["pass@1"] or 0.0)):
        row = against.get(arm["label"], {})
        name = (
            f"<b class={colour(found, arm['label'])}>{escape(arm['label'])}</b><br><code>{escape(arm['recipe'])}</code>"
        )
        seeds = ", ".join(f"{v:.3f}" for v in arm["by_seed"].values())
        rows.append([
            number(arm["rank"], "d"), name, f"<span title='{seeds}'>{len(arm['seeds'])}</span>", number(arm["pass@1"]),
            number(arm["before"]), number(row.get("mean"), "+.3f"), span(row), probability(row),
        ])  # fmt: skip
    return grid(head, rows) + (
        "<p class=lead>Rank: 1, and 1 more for every arm that is shown to be better (corrected p below 0.05). Arms of"
        " one rank cannot be ordered by what was measured.</p>"
    )


def sources(found: Json) -> str:
    """pass@1 of every source of tasks."""
    arms = [a for a in found["arms"] if a["sources"]]
    names = list(arms[0]["sources"]) if arms else []
    rows = [[escape(n), *(number(a["sources"].get(n)) for a in arms)] for n in names]
    return grid(["tasks", *(escape(a["label"]) for a in arms)], rows)


def costs(found: Json) -> str:
    """Means over the seeds of what the ledger counted."""
    names = list(dict.fromkeys(n for a in found["arms"] for n in a["cost"]))
    arms = [a for a in found["arms"] if a["cost"]]
    rows = [[n.replace("_", " "), *(amount(a["cost"].get(n)) for a in arms)] for n in names]
    rows += [[n, *(amount(a[n]) for a in arms)] for n in ("steps", "seconds")]
    return grid(["mean over the seeds", *(escape(a["label"]) for a in arms)], rows)


def method(found: Json) -> str:
    """How to run it again, how intervals were made, and the report of every run."""
    arms = [a for a in found["arms"] if a["seeds"]]
    links = [
        f"<li>{escape(a['label'])}: seed "
        + ", ".join(f"<a href='{quote(a['label'])}/seed-{s}/report.html'>{s}</a>" for s in a["seeds"])
        for a in arms
    ]
    return (
        f"<p><code>{escape(found['command'])}</code></p><p class=lead>Differences are paired: by seed, and by task in a"
        " seed. Their errors over seeds and over tasks are bootstrapped, each taken times its own quantile of"
        " Student’s t, and added as squares. p is corrected by Holm’s method over all"
        f" pairs of arms; intervals are not. Every run has a report of its own:</p><ul>{''.join(links)}</ul>"
    )


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; heads and cells are HTML."""
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{body}</table></div>"


def legend(labels: Sequence[str]) -> str:
    keys = (f"<span><i class=s{n % 8}></i>{escape(label)}</span>" for n, label in enumerate(labels))
    return f"<p class=legend>{''.join(keys)}</p>"


def chart(found: Json, y: str, title: str, labels: Sequence[str]) -> str:
    """Curves with bands over the seeds."""
    curves = {n: c[y] for n, c in found["curves"].items() if c[y]}
    if not curves:
        return ""
    right = max(c["x"][-1] for c in curves.values()) or 1.0
    low, high = limits([v for c in curves.values() for v in (*c["low"], *c["high"])])
    place = Place(right, low, high)
    bands, lines = [], []
    for n, label in enumerate(labels):
        if label not in curves:
            continue
        c = curves[label]
        top = [place(x, v) for x, v in zip(c["x"], c["high"])]
        under = [place(x, v) for x, v in zip(c["x"], c["low"])]
        end = f"{escape(label)}: {c['mean'][-1]:.3f} at the end"
        bands.append(f'<polygon class="s{n % 8} band" points="{" ".join([*top, *reversed(under)])}"/>')
        points = " ".join(place(x, v) for x, v in zip(c["x"], c["mean"]))
        lines.append(f'<polyline class="s{n % 8}" points="{points}"><title>{end}</title></polyline>')
    return drawing(escape(title), HIGH, place.frame() + "".join(bands + lines))


def drawing(name: str, high: int, inner: str) -> str:
    svg = f"<svg viewBox='0 0 {WIDE} {high}' role=img aria-label='{name}'>{inner}</svg>"
    return f"<figure><figcaption>{name}</figcaption>{svg}</figure>"


class Place:
    """Data → points of the drawing; x from 0 to `right`, y from `low` to `high`."""

    def __init__(self, right: float, low: float, high: float):
        self.right, self.low, self.high = right, low, high

    def __call__(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f},{self.y(y):.1f}"

    def x(self, x: float) -> float:
        return LEFT + x / self.right * (WIDE - LEFT - RIGHT)

    def y(self, y: float) -> float:
        return HIGH - BOTTOM - (y - self.low) / (self.high - self.low) * (HIGH - TOP - BOTTOM)

    def frame(self) -> str:
        out = []
        for k in range(5):
            v, x = self.low + k * (self.high - self.low) / 4, k * self.right / 4
            out.append(f"<path class=grid d='M{LEFT} {self.y(v):.1f}H{WIDE - RIGHT}'/>")
            out.append(f"<text x={LEFT - 8} y={self.y(v) + 4:.1f} text-anchor=end>{v:.2f}</text>")
            anchor = "end" if k == 4 else "middle"
            out.append(f"<text x={self.x(x):.1f} y={HIGH - BOTTOM + 20} text-anchor={anchor}>{amount(x)}</text>")
        return "".join(out)


def forest(found: Json, labels: Sequence[str]) -> str:
    """Differences to the first arm as dots with intervals."""
    rows = [r for r in found["against_first"] if r["low"] is not None]
    if not rows:
        return "<p class=lead>No intervals: two seeds of an arm and of the first are needed.</p>"
    reach = max(max(abs(r["low"]), abs(r["high"])) for r in rows) * 1.08 or 0.1
    middle, scale, high = 440, 240 / reach, 34 * len(rows) + 34
    out = [f"<path class=zero d='M{middle} 0V{high - 26}'/>"]
    for n, r in enumerate(rows):
        y, k = 20 + 34 * n, labels.index(r["arm"]) % 8
        a, b, m = (middle + scale * r[key] for key in ("low", "high", "mean"))
        out.append(f"<text x=168 y={y + 4} text-anchor=end>{escape(shorten(r['arm']))}</text>")
        name = f"<title>{escape(r['arm'])}: {r['mean']:+.3f}, {r['verdict']}</title>"
        out.append(
            f"<path class=s{k} d='M{a:.1f} {y}H{b:.1f}'/><circle class=s{k} cx={m:.1f} cy={y} r=5>{name}</circle>"
        )
    for v in (-reach, 0.0, reach):
        out.append(f"<text x={middle + scale * v:.1f} y={high - 8} text-anchor=middle>{v:+.2f}</text>")
    name = f"difference of pass@1 to {escape(labels[0])}, 95 % intervals"
    return drawing(name, high, "".join(out))


def limits(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds the values, with a little room."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.05
    return low - room, high + room


def colour(found: Json, label: str) -> str:
    return f"s{[a['label'] for a in found['arms']].index(label) % 8}"


def amount(x: float | None) -> str:
    """A number with three digits and a unit's letter."""
    if x is None:
        return "–"
    size, letter = next((u for u in UNITS if abs(x) >= u[0]), (1.0, ""))
    return f"{x / size:.3g}{letter}"


def number(x: float | None, how: str = ".3f") -> str:
    return "–" if x is None else format(x, how)


def probability(row: Json) -> str:
    if row.get("low") is None:
        return "–"
    return "&lt; 0.001" if row["holm"] < 0.001 else f"{row['holm']:.3f}"


def span(row: Json) -> str:
    return "–" if row.get("low") is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"


def shorten(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def _failed(failed: Mapping[str, str]) -> str:
    rows = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in failed.items())
    return f"<p class=bad>These runs failed, and are left out:</p><ul>{rows}</ul>" if rows else ""
