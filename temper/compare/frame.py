"""What every figure shares: places of data, round ticks, labels that do not overlap, colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Curve = Mapping[str, Any]
WIDE = 720  # of every figure
COLOURS = ("#2a6ab5", "#b5621b", "#7b4793", "#15787a", "#b3394a", "#6b7719", "#64717f", "#a37800")
DASHES = ("", "7 4", "2 3")  # of the first eight arms, of the next eight, …
FONT = "ui-sans-serif, system-ui, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def rules(colours: Sequence[str], ink: str, soft: str, line: str) -> str:
    """The style of every figure in these colours."""
    out = [
        f"svg text{{font:13px {FONT};fill:{soft}}}svg text.ink{{fill:{ink}}}svg text.small{{font-size:11px}}",
        f".grid{{stroke:{line};stroke-width:1;fill:none}}.zero{{stroke:{soft};stroke-width:1;stroke-dasharray:3 4}}",
        f".line{{fill:none;stroke-width:2;stroke-linejoin:round}}.other{{fill:none;stroke:{line};stroke-width:1.5}}",
        ".band{fill-opacity:.14}.seed{fill-opacity:.45}.told{fill-opacity:.22}",
        ".lead{stroke-width:1;stroke-opacity:.5;fill:none}",
        *(f".d{n}{{stroke-dasharray:{dash}}}" for n, dash in enumerate(DASHES) if dash),
    ]
    for n, colour in enumerate(colours):
        out.append(f".line.s{n},.lead.s{n}{{stroke:{colour}}}.fill.s{n},svg text.s{n}{{fill:{colour}}}")
    return "".join(out)


PLAIN = rules(COLOURS, "#1e1c1a", "#55504a", "#d9d4cb")


@dataclass(frozen=True)
class Frame:
    """Data → places: x in [x0, x1] and y in [y0, y1] between margins within WIDE × high."""

    x0: float
    x1: float
    y0: float
    y1: float
    left: float
    right: float
    top: float
    bottom: float
    high: float

    @property
    def floor(self) -> float:
        return self.high - self.bottom

    def x(self, v: float) -> float:
        return self.left + (v - self.x0) / (self.x1 - self.x0) * (WIDE - self.left - self.right)

    def y(self, v: float) -> float:
        return self.floor - (v - self.y0) / (self.y1 - self.y0) * (self.floor - self.top)

    def line(self, c: Curve, classes: str, inner: str = "") -> str:
        """A curve's mean."""
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(c["x"], c["mean"]))
        return f"<polyline class='{classes}' points='{points}'>{inner}</polyline>"

    def band(self, c: Curve, colour: str) -> str:
        """From a curve's low to its high."""
        there = [f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(c["x"], c["high"])]
        back = [f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(c["x"], c["low"])]
        return f"<polygon class='fill band {colour}' points='{' '.join([*there, *reversed(back)])}'/>"

    def across(self, label: str, how: str = "") -> str:
        """Grid lines at round places of x, with numbers and the name of the axis."""
        out = [text((self.left + WIDE - self.right) / 2, self.high - 6, label, "middle", "ink")]
        for v in ticks(self.x0, self.x1):
            out.append(f"<path class='grid' d='M{self.x(v):.1f} {self.top:.1f}V{self.floor:.1f}'/>")
            out.append(text(self.x(v), self.floor + 18, signed(v, how) if how else amount(v), "middle"))
        return "".join(out)

    def up(self, label: str = "", numbers: bool = True, most: int = 6) -> str:
        """The same of y."""
        out = []
        for v in ticks(self.y0, self.y1, most):
            out.append(f"<path class='grid' d='M{self.left:.1f} {self.y(v):.1f}H{WIDE - self.right:.1f}'/>")
            out.append(text(self.left - 7, self.y(v) + 4, f"{v:.2f}", "end") if numbers else "")
        turned = f"transform='translate(14 {(self.top + self.floor) / 2:.1f}) rotate(-90)'"
        return "".join(out) + (
            f"<text class='ink' {turned} text-anchor='middle'>{escape(label)}</text>" if label else ""
        )

    def feet(self) -> str:
        """A few numbers below a small frame."""
        places = ticks(self.x0, self.x1, 2)
        return "".join(text(self.x(v), self.floor + 15, amount(v), "middle") for v in places)


def text(x: float, y: float, content: str, anchor: str = "start", classes: str = "") -> str:
    kind = f" class='{classes}'" if classes else ""
    return f"<text{kind} x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(content)}</text>"


def signed(v: float, how: str) -> str:
    return format(v + 0.0, how).replace("-", "−")


def limits(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds the values, with a little room."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.05
    return low - room, high + room


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in the range, at most `most` + 1."""
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= raw * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def apart(places: Sequence[float], gap: float, bottom: float) -> list[float]:
    """The places, moved until they are `gap` from one another and none is below `bottom`."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    out, floor, ceiling = list(places), -math.inf, bottom + gap
    for i in order:
        out[i] = floor = max(out[i], floor + gap)
    for i in reversed(order):
        out[i] = ceiling = min(out[i], ceiling - gap)
    return out


def amount(x: float | None) -> str:
    """A number with three digits and a unit's letter."""
    if x is None:
        return "–"
    size, letter = next((u for u in UNITS if abs(x) >= u[0]), (1.0, ""))
    return f"{x / size:.3g}{letter}"


def shorten(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
