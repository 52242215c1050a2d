"""Write docs/gallery.md: every method with its idea, hook, paper, command, length, and what was measured as a plot.

python -m studies.gallery
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from temper.catalogue import lines_of_code
from temper.cli import source

ROOT = Path(__file__).parents[1]
PAGE, PLOTS, CLAIMS = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery", ROOT / "docs" / "claims"
WIDE, ROW, SHOWN = 220, 18, 4  # of a plot, of a line in it; measures that are drawn
HELD, OPEN = "#1a7f37", "#8b949e"
HEAD = """# Gallery

Every method: its idea, where it hooks in, its paper, the command that runs it on a laptop, and the lines of code of
its file (without blank lines, comments and docstrings). A plot shows what its small-scale check found: differences with
95 % intervals, paired by seed, each drawn to its own scale with the claimed side on the right; green where the whole
interval lies there. It leads to the page with the figures. Written by `python -m studies.gallery`.
"""


def entries() -> list[source.Entry]:
    return sorted(source.methods().values(), key=lambda e: (e.more["family"], e.title.lower()))


def claim(slug: str) -> dict[str, Any] | None:
    path = CLAIMS / f"{slug}.json"
    return json.loads(path.read_text()) if path.exists() else None


def page() -> str:
    found, recipes = entries(), source.recipes()
    lines = [lines_of_code(e.file) for e in found]
    measured = sum(claim(e.name) is not None for e in found)
    out = [
        HEAD,
        f"{len(found)} methods, the median file {median(lines):g} lines of code, the longest {max(lines)}; none adds a "
        f"branch to the core (`tests/contract/test_methods.py`). {measured} have a small-scale check; "
        "[all of its figures](claims/README.md).\n",
    ]
    for family in sorted({e.more["family"] for e in found}):
        out += [f"## {family}\n", "| method | idea | hook | paper | run | lines | measured |", "| --- " * 7 + "|"]
        out += [row(e, n, recipes) for e, n in zip(found, lines) if e.more["family"] == family]
        out.append("")
    return "\n".join(out)


def row(e: source.Entry, lines: int, recipes: dict[str, source.Entry]) -> str:
    name = e.more["recipe"]
    idea = recipes[name].title.rstrip(".") if name in recipes else e.title
    data = claim(e.name)
    plot = f"[![{data['outcome']}](gallery/{e.name}.svg)](claims/{e.name}.md)" if data else ""
    where = e.file.relative_to(ROOT)
    cells = [f"[{e.title}](../{where})", idea, ", ".join(e.more["hooks"]), _paper(e.more["paper"]),
             f"`temper run {name}`", str(lines), plot]  # fmt: skip
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _paper(paper: str | None) -> str:
    if not paper:
        return ""
    kind, _, number = paper.partition(" ")
    return f"[{number}](https://arxiv.org/abs/{number})" if kind == "arXiv" else paper.removeprefix("github.com/")


def plot(data: dict[str, Any]) -> str:
    """Differences and intervals of the first measures, each over the largest bound of its own."""
    rows = data["measures"][:SHOWN]
    high, middle, half = ROW * len(rows) + 6, WIDE / 2, WIDE / 2 - 8
    inner = [f"<line x1='{middle}' x2='{middle}' y1='2' y2='{high - 2}' stroke='{OPEN}' stroke-dasharray='2 2'/>"]
    for n, m in enumerate(rows):
        sign = -1 if m.get("lower", m["held"] and m["high"] < 0) else 1
        largest = max(abs(m["low"]), abs(m["high"]), 1e-12)
        y, colour = ROW * n + ROW / 2 + 3, HELD if m["held"] else OPEN
        low, dot, top = (middle + half * m[k] / largest * sign for k in ("low", "difference", "high"))
        words = f"{m['text']}: {m['difference']:+.3f} [{m['low']:+.3f}, {m['high']:+.3f}]"
        inner.append(
            f"<g><title>{escape(words)}</title><line x1='{low:.1f}' x2='{top:.1f}' y1='{y}' y2='{y}' stroke='{colour}' "
            f"stroke-width='3'/><circle cx='{dot:.1f}' cy='{y}' r='4.5' fill='{colour}'/></g>"
        )
    label = escape(f"{data['title']}: {data['outcome']}")
    box = f"width='{WIDE}' height='{high}' viewBox='0 0 {WIDE} {high}' role='img' aria-label='{label}'"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {box}><title>{label}</title>{''.join(inner)}</svg>\n"


def write() -> None:
    PLOTS.mkdir(exist_ok=True)
    for e in entries():
        data = claim(e.name)
        if data and data.get("kind") == "check":
            (PLOTS / f"{e.name}.svg").write_text(plot(data))
    PAGE.write_text(page())


if __name__ == "__main__":
    write()
    print(PAGE)
