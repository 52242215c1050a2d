"""Figures of a comparison as SVG. In the page they take its colours; as files they bring their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from temper.compare.frame import DASHES, PLAIN, WIDE, Frame, apart, limits, shorten, signed, text

Json = Mapping[str, Any]
LABELS, ROW = 176, 26  # of the labels at the left of a figure; of a line of it
MANY = 4  # arms; with more of them, every one gets a panel too
UP = {"pass@1": "pass@1 on held-out tasks", "reward": "reward in training"}


@dataclass(frozen=True)
class Figure:
    """name: of its file; title: what is seen; inner: SVG elements in a space of WIDE × high."""

    name: str
    title: str
    high: float
    inner: str

    def inline(self) -> str:
        box = f"viewBox='0 0 {WIDE} {self.high:.0f}'"
        return f"<svg {box} role=img aria-label='{escape(self.title)}' data-name='{self.name}'>{self.inner}</svg>"

    def file(self) -> str:
        """A document of its own, on white."""
        box = f"viewBox='0 0 {WIDE} {self.high:.0f}' width='{WIDE}' height='{self.high:.0f}'"
        head = f"<svg xmlns='http://www.w3.org/2000/svg' {box}><title>{escape(self.title)}</title>"
        ground = f"<rect width='{WIDE}' height='{self.high:.0f}' fill='#fff'/>"
        return f"{head}<style>{PLAIN}</style>{ground}{self.inner}</svg>\n"


def write(found: Json, folder: Path) -> str:
    """Every figure as NAME.svg, and as NAME.png where resvg-py and a font are installed; what was written, in words."""
    folder.mkdir(exist_ok=True)
    missing = _missing()
    for figure in figures(found):
        path = folder / f"{figure.name}.svg"
        path.write_text(figure.file(), encoding="utf-8")
        if not missing:
            path.with_suffix(".png").write_bytes(_picture(figure.file()))
    return f"SVG; PNG too after {missing}" if missing else "SVG, PNG"


def _missing() -> str:
    """What PNG files need, and this machine does not have."""
    if importlib.util.find_spec("resvg_py") is None:
        return "pip install resvg-py"
    letter, nothing = (Figure("", "", 40, text(20, 20, word)).file() for word in ("M", ""))
    return "" if _picture(letter) != _picture(nothing) else "a font is installed (fonts-dejavu-core)"


def _picture(svg: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=3))


def figures(found: Json) -> list[Figure]:
    """All that a paper would show, along the axis of the budget."""
    made = [scores(found), differences(found), matrix(found)]
    for y in UP:
        made += [curves(found, y, found["axis"]), panels(found, y, found["axis"])]
    return [f for f in made if f is not None]


def scores(found: Json) -> Figure:
    """Every run as a dot, every arm's mean as a stroke, best first."""
    arms = ranked(found)
    frame = _rows([v for a in arms for v in a["by_seed"].values()], len(arms), right=92)
    out = [frame.across("pass@1 on held-out tasks after training", ".2f")]
    for n, arm in enumerate(arms):
        y, c, x = frame.top + ROW * (n + 0.5), colour(found, arm["label"]), frame.x(arm["pass@1"])
        for seed, v in arm["by_seed"].items():
            said = f"<title>seed {seed}: {v:.3f}</title>"
            out.append(f"<circle class='fill seed {c}' cx='{frame.x(v):.1f}' cy='{y:.1f}' r='4.5'>{said}</circle>")
        out.append(f"<path class='line {c}' d='M{x:.1f} {y - 9:.1f}V{y + 9:.1f}'/>")
        out += [_name(arm["label"], y), text(WIDE - 86, y + 4, f"{arm['pass@1']:.3f}   {arm['groups']}")]
    title = "pass@1 after training: dots are seeds, strokes their means; arms that share a letter cannot be told apart"
    return Figure("scores", title, frame.high, "".join(out))


def differences(found: Json) -> Figure | None:
    """Differences to the first arm as dots with intervals, best first."""
    against = {r["arm"]: r for r in found["against_first"] if r["low"] is not None}
    rows = [against[a["label"]] for a in ranked(found) if a["label"] in against]
    if not rows:
        return None
    frame = _rows([0.0, *(r[k] for r in rows for k in ("low", "high"))], len(rows), right=24)
    first = found["arms"][0]["label"]
    out = [frame.across(f"difference of pass@1 to {first}, with 95 % interval", "+.2f")]
    out.append(f"<path class='zero' d='M{frame.x(0):.1f} {frame.top}V{frame.floor}'/>")
    for n, r in enumerate(rows):
        y, c = frame.top + ROW * (n + 0.5), colour(found, r["arm"])
        a, b, m = (frame.x(r[key]) for key in ("low", "high", "mean"))
        said = f"{escape(r['arm'])}: {r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}], {r['verdict']}"
        out.append(f"{_name(r['arm'], y)}<path class='line {c}' d='M{a:.1f} {y:.1f}H{b:.1f}'/>")
        out.append(f"<circle class='fill {c}' cx='{m:.1f}' cy='{y:.1f}' r='5'><title>{said}</title></circle>")
    return Figure("differences", f"difference of pass@1 to {first}, 95 % intervals", frame.high, "".join(out))


def matrix(found: Json) -> Figure | None:
    """Row less column for every pair; shaded where they are told apart."""
    arms = [a["label"] for a in ranked(found)]
    if not 3 <= len(arms) <= 16:
        return None
    pairs = {(p["arm"], p["against"]): (p["mean"], p["verdict"]) for p in found["pairs"]}
    pairs |= {(b, a): (-mean, verdict) for (a, b), (mean, verdict) in pairs.items()}
    side, top, out = min(64, (WIDE - LABELS - 12) // len(arms)), 100, list[str]()
    for n, a in enumerate(arms):
        x, y = LABELS + side * (n + 0.5), top + side * (n + 0.5)
        turned = f"transform='translate({x + 4:.1f} {top - 8}) rotate(-45)'"
        out += [_name(a, y), f"<text class='small' {turned}>{escape(shorten(a, 17))}</text>"]
        for k, b in enumerate(arms):
            if (a, b) not in pairs:
                continue
            gap, verdict = pairs[a, b]
            told = verdict != "cannot be told apart"
            kind = f"told fill {'s0' if gap > 0 else 's4'}" if told else "grid"
            at = f"x='{LABELS + side * k + 1}' y='{top + side * n + 1}' width='{side - 2}' height='{side - 2}' rx='3'"
            out.append(f"<rect class='{kind}' {at}/>")
            out.append(
                text(LABELS + side * (k + 0.5), y + 4, signed(100 * gap, "+.1f"), "middle", f"small{' ink' * told}")
            )
    title = "pass@1 of the row less that of the column, in points; shaded: told apart (p corrected over all pairs)"
    return Figure("pairs", title, top + side * len(arms) + 12, "".join(out))


def curves(found: Json, y: str, axis: str) -> Figure | None:
    """All arms in one frame, named at their ends; None where no arm has a curve."""
    lines = drawn(found, y, axis)
    if not lines:
        return None
    frame = Frame(0, _far(lines), *_reach(lines), 62, 150, 14, 46, 330)
    ends = apart([frame.y(c["mean"][-1]) for c in lines.values()], 15, frame.floor)
    out = [frame.across(words(axis)), frame.up(UP[y])]
    for (label, c), at in zip(lines.items(), ends):
        tint, tip = colour(found, label), f"{frame.x(c['x'][-1]):.1f} {frame.y(c['mean'][-1]):.1f}"
        said = f"<title>{escape(label)}: {c['mean'][-1]:.3f} at the end</title>"
        parts = [
            frame.band(c, tint) if len(lines) <= MANY else "",
            frame.line(c, f"line {tint} {dashes(found, label)}", said),
            f"<path class='lead {tint}' d='M{tip}L{WIDE - 146} {at:.1f}'/>",
            text(WIDE - 142, at + 4, shorten(label, 19), "start", tint),
        ]
        out.append(f"<g data-arm='{position(found, label)}'>{''.join(parts)}</g>")
    more = ", and from the lowest to the highest" if len(lines) <= MANY else ""
    return Figure(_file(y, axis), f"{UP[y]} by {words(axis)}: mean over the seeds{more}", frame.high, "".join(out))


def panels(found: Json, y: str, axis: str) -> Figure | None:
    """A panel for every arm, with the others in grey; None where one frame holds them all."""
    lines = drawn(found, y, axis)
    if len(lines) <= MANY:
        return None
    wide, tall, out = (WIDE - 52) / 4, 118, list[str]()
    high = -(-len(lines) // 4) * tall + 44
    for n, (label, c) in enumerate(lines.items()):
        left, top = 48 + wide * (n % 4), tall * (n // 4)
        frame = Frame(0, _far(lines), *_reach(lines), left, WIDE - left - wide + 10, top + 24, high - top - tall, high)
        out += [frame.up(numbers=n % 4 == 0, most=3), frame.feet() if n + 4 >= len(lines) else ""]
        out += [frame.line(o, "other") for other, o in lines.items() if other != label]
        tint = colour(found, label)
        out += [frame.band(c, tint), frame.line(c, f"line {tint}")]
        out.append(text(left, top + 16, shorten(label, 21), "start", "ink"))
    out.append(text(WIDE / 2, high - 4, words(axis), "middle", "ink"))
    title = f"{UP[y]} by {words(axis)}, arm by arm: mean over the seeds, and from the lowest to the highest"
    return Figure(f"{_file(y, axis)}-panels", title, high, "".join(out))


def drawn(found: Json, y: str, axis: str) -> dict[str, Json]:
    """{arm: its curve}, of those that have one."""
    return {label: c[y] for label, c in found["curves"].get(axis, {}).items() if c[y]}


def ranked(found: Json) -> list[Json]:
    """Arms with a finished run, best first."""
    return sorted((a for a in found["arms"] if a["seeds"]), key=lambda a: -a["pass@1"])


def position(found: Json, label: str) -> int:
    return [a["label"] for a in found["arms"]].index(label)


def colour(found: Json, label: str) -> str:
    return f"s{position(found, label) % 8}"


def dashes(found: Json, label: str) -> str:
    """Where colours come again, dashes tell them apart."""
    return f"d{position(found, label) // 8 % len(DASHES)}"


def words(axis: str) -> str:
    return axis.replace("_", " ").replace("flops", "FLOPs")


def _rows(values: Sequence[float], count: int, right: float) -> Frame:
    """A frame with a line for each arm."""
    return Frame(*limits(values), 0, count, LABELS, right, 12, 44, ROW * count + 56)


def _name(label: str, y: float) -> str:
    return text(LABELS - 10, y + 4, shorten(label, 23), "end", "ink")


def _far(lines: Mapping[str, Json]) -> float:
    return float(max(c["x"][-1] for c in lines.values()) or 1.0)


def _reach(lines: Mapping[str, Json]) -> tuple[float, float]:
    return limits([v for c in lines.values() for v in (*c["low"], *c["high"])])


def _file(y: str, axis: str) -> str:
    return f"{y.replace('@', '-at-')}-by-{axis.replace('_', '-')}"
