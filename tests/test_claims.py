"""What is published says what the stored figures say, and the main job's claim holds in every seed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from studies import claim

ROOT = Path(__file__).parents[1]
STORED = sorted((ROOT / "docs" / "claims").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_page_is_what_its_figures_say(path: Path) -> None:
    assert path.with_suffix(".md").read_text() == claim.page(json.loads(path.read_text()))


def test_quickstart_rises_in_three_seeds_of_three() -> None:
    seeds = json.loads((ROOT / "docs" / "claims" / "quickstart.json").read_text())["seeds"]
    assert [s["seed"] for s in seeds] == [0, 1, 2]
    for s in seeds:
        assert 0.15 <= s["before"]["pass@1"] <= 0.6
        assert s["difference"]["pass@1"] >= 0.25 and s["difference"]["interval"][0] > 0
        assert len(s["tasks"]) >= 4 and any(not t["trained"] for t in s["tasks"].values())
        assert s["seconds"] <= 180


def test_readme_quotes_the_stored_figures() -> None:
    seeds = json.loads((ROOT / "docs" / "claims" / "quickstart.json").read_text())["seeds"]
    rows = re.findall(r"^\| (\w[^|]*?) \| [a-z ]+ \| (0\.\d\d) \| (0\.\d\d) \| \+(0\.\d\d) \|$", _readme(), re.M)
    assert len(rows) == len(seeds[0]["tasks"])
    for (name, before, after, change), (stored, _) in zip(rows, seeds[0]["tasks"].items(), strict=True):
        assert name.split()[0] == stored.split(",")[0].split()[0]
        mean = {k: sum(s["tasks"][stored][k] for s in seeds) / len(seeds) for k in ("before", "after", "change")}
        assert (before, after, change) == tuple(f"{mean[k]:.2f}" for k in ("before", "after", "change"))


def _readme() -> str:
    return (ROOT / "README.md").read_text()
