"""Write docs/claims/README.md from the stored figures: `python -m studies.index`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "claims"
HEAD = """# Claims

Every published figure, with the command that gave it, its seeds, date and interval. Pages and JSON are written by the
studies themselves (`python -m studies.NAME --seeds N`; the main job: `python studies/claim.py`), and this page by
`python -m studies.index`; no figure is typed by hand. A claim holds where the whole 95 % interval of a difference that
is paired by seed lies on the claimed side of 0. What was not shown is kept as well.

- [quickstart](quickstart.md): the main job, three seeds
- [temper-tiny](../../temper/models/temper_tiny/README.md): the bundled model's card, written by `studies/base_card.py`

| system | at this scale | first measure | here | against | difference, 95 % interval | seeds |
| --- | --- | --- | --- | --- | --- | --- |
"""


def page(folder: Path = FOLDER) -> str:
    """The page, from the JSON files of `folder`."""
    found = [json.loads(f.read_text()) for f in sorted(folder.glob("*.json"))]
    return HEAD + "".join(row(d) + "\n" for d in found if d.get("kind") == "check")


def row(d: dict[str, Any]) -> str:
    """One system: its outcome, and the first of its measures."""
    m = d["measures"][0]
    name = d["title"].split(":")[0]
    cells = [
        f"[{name}]({d['slug']}.md)",
        d["outcome"],
        m["text"],
        f"{m['mean']:.3f}",
        f"{m['other']:.3f} ({m['against']})",
    ]
    gap = f"{m['difference']:+.3f} [{m['low']:+.3f}, {m['high']:+.3f}]"
    return "| " + " | ".join([*cells, gap, str(len(d["seeds"]))]) + " |"


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(page())
    print(FOLDER / "README.md")
