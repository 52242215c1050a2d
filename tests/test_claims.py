"""What is published says what the stored figures say, and the main job's claim holds in every seed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from studies import check, claim, comparison, gallery, index

ROOT = Path(__file__).parents[1]
STORED = sorted((ROOT / "docs" / "claims").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_page_is_what_its_figures_say(path: Path) -> None:
    data = json.loads(path.read_text())
    pages = {"check": check, "comparison": comparison}.get(data.get("kind"), claim)
    assert path.with_suffix(".md").read_text() == pages.page(data)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_outcome_is_what_the_runs_say(path: Path) -> None:
    data = json.loads(path.read_text())
    for m in data.get("measures", []):
        pairs = zip(data["figures"][m["arm"]], data["figures"][m["against"]], strict=True)
        found = check.interval([x[m["figure"]] - y[m["figure"]] for x, y in pairs])
        assert found == {k: m[k] for k in found}
    held = [m["held"] for m in data.get("measures", [])]
    words = "reproduced" if all(held) else "partly reproduced" if any(held) else "not reproduced"
    assert data.get("outcome", "reproduced") == words


def test_the_list_of_claims_is_current() -> None:
    assert (ROOT / "docs" / "claims" / "README.md").read_text() == index.page()


def test_the_gallery_is_current() -> None:
    assert gallery.PAGE.read_text() == gallery.page(), "run python -m studies.gallery"
    drawn = {f.stem: f.read_text() for f in gallery.PLOTS.glob("*.svg")}
    claimed = {e.name: gallery.claim(e.name) for e in gallery.entries()}
    assert drawn == {name: gallery.plot(data) for name, data in claimed.items() if data}


def test_an_interval_by_hand() -> None:
    found = check.interval([1.0, 2.0, 3.0])  # mean 2, s 1, t(2) = 4.303
    assert found == pytest.approx({"difference": 2.0, "low": 2 - 4.303 / 3**0.5, "high": 2 + 4.303 / 3**0.5})


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
