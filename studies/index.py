"""Write docs/claims/README.md from the stored figures: `python -m studies.index`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

Json = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "docs" / "claims"
HEAD = """# Claims

Every published figure, with the command that gave it, its seeds, date and interval, and the paper's own number beside
it. Pages and JSON are written by the studies themselves (`python -m studies.NAME --seeds N`; the main job: `python
studies/claim.py`; the comparison: `python -m studies.comparison`), and this page by `python -m studies.index`; nothing
is typed by hand. A claim holds where the whole 95 % interval of a difference that is paired by seed lies on the claimed
side of 0. What was not shown is kept as well.

"""


def page(folder: Path = FOLDER) -> str:
    """The page, from the JSON files of `folder`."""
    found = {f.stem: json.loads(f.read_text()) for f in sorted(folder.glob("*.json"))}
    checks = [d for d in found.values() if d.get("kind") == "check"]
    others = [other(name, d) for name, d in found.items() if d.get("kind") != "check"]
    card = "- [temper-tiny](../../temper/models/temper_tiny/README.md): the bundled model, by `studies/base_card.py`"
    table = ["| system | at this scale | the paper's own number |", "| --- | --- | --- |", *map(row, checks)]
    return HEAD + "\n".join([*others, card, "", *table, "", *(section(d) for d in checks)])


def other(name: str, d: Json) -> str:
    """The main job, or a comparison, in a line."""
    if d.get("kind") == "comparison":
        arms = len(d["result"]["arms"])
        return f"- [{arms} methods at equal compute]({name}.md): `{d['result']['command']}`, {d['date']}"
    gain = mean(s["difference"]["pass@1"] for s in d["seeds"])
    words = f"{gain:+.3f} pass@1 in {len(d['seeds'])} seeds, each with its interval there"
    return f"- [{name}]({name}.md): `{d['command']}`, {d['date']}; {words}"


def row(d: Json) -> str:
    """One system: its outcome, and what the paper has."""
    return f"| [{title(d)}]({d['slug']}.md) | {d['outcome']} | {d.get('paper') or d['claim']} |"


def section(d: Json) -> str:
    """One system: its command, seeds and date, and all of its measures."""
    lines = [
        f"## {title(d)}: {d['outcome']}",
        "",
        f"`{d['command']}`, {d['date']}, seeds {', '.join(map(str, d['seeds']))}, torch {d['versions']['torch']}.",
        "",
        "| measure | here | against | difference, 95 % interval | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for m in d["measures"]:
        gap = f"{m['difference']:+.3f} [{m['low']:+.3f}, {m['high']:+.3f}]"
        held = "holds" if m["held"] else "not shown"
        here, other = f"{m['mean']:.3f} ({m['arm']})", f"{m['other']:.3f} ({m['against']})"
        lines.append(f"| {m['text']} | {here} | {other} | {gap} | {held} |")
    return "\n".join([*lines, ""]) + "\n"


def title(d: Json) -> str:
    return str(d["title"].split(":")[0])


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(page())
    print(FOLDER / "README.md")
