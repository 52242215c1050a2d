"""The page of a comparison in a real browser, and its figures as files."""

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from temper.compare import plots
from temper.compare.frame import amount, apart, ticks
from temper.compare.page import render
from tests.browser import Browser, find_chromium


def shown(page: Browser, selector: str) -> list[str]:
    """Texts of the elements that can be seen."""
    return page.js(
        f"[...document.querySelectorAll({selector!r})].filter(e => e.getClientRects().length).map(e => e.textContent)"
    )


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium")
def test_the_page_in_a_browser(found: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(render(found), encoding="utf-8")
    with Browser(find_chromium() or "") as page:
        grounds = []
        for width, dark in ((1280, False), (390, True)):
            page.open(path, width=width, dark=dark)
            assert page.js("document.documentElement.scrollWidth") <= width
            seen = "[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length)"
            assert page.js(f"{seen}.length") == 5 and page.js(
                f"{seen}.every(s => s.getBoundingClientRect().height > 40)"
            )
            text = page.js("document.body.innerText")
            assert "better beats " in text and "out of luck <script>" in text
            assert page.js("document.querySelector('polyline').points.length") == 40
            assert not page.errors and [r for r in page.requests if not r.startswith("file:")] == []
            grounds.append(page.js("getComputedStyle(document.body).backgroundColor"))
        assert grounds[0] != grounds[1]

        page.open(path)
        curve = "figure:not([hidden]) g[data-arm='1'] polyline"
        assert len(shown(page, curve)) == 2  # pass@1 and reward
        page.click("button[data-toggle='1']")
        assert shown(page, curve) == [] and page.js("document.querySelector('tr.off b').textContent") == "better"
        page.click("button[data-all='none']")
        assert shown(page, "g[data-arm] polyline") == []
        page.click("button[data-all='all']")
        assert len(shown(page, curve)) == 2
        page.js("(s => (s.value = 'steps', s.dispatchEvent(new Event('change'))))(document.querySelector('#axis'))")
        assert shown(page, "figure[data-axis] figcaption span")[0].startswith("pass@1 on held-out tasks by steps")

        first = "table:first-of-type tbody tr:not([hidden]) b"
        names = ["better", "grpo", "rloo-attempts-8"]
        assert shown(page, f"section:nth-of-type(2) {first}")[0] == "better"
        for order in (sorted(names, reverse=True), names):  # by name: down, then up
            page.click("section:nth-of-type(2) th:nth-child(1) button")
            assert [n for n in shown(page, f"section:nth-of-type(2) {first}") if n in names] == order
        page.click("#filter")
        page.type("rloo 8")
        assert shown(page, f"section:nth-of-type(2) {first}") == ["rloo-attempts-8"]

        page.js("{ const f = URL.createObjectURL; URL.createObjectURL = (b) => (window.saved = b, f.call(URL, b)); }")
        page.click("button[data-toggle='2']")
        page.click("figure[data-axis='steps'] button[data-save=svg]")
        svg = page.js("window.saved.text()")
        assert svg.startswith("<svg") and ".line.s1" in svg and svg.count("<polyline") == 2, svg[:300]  # one arm is off
        page.js("window.saved = null")
        page.click("figure[data-axis='steps'] button[data-save=png]")
        page.until("window.saved !== null")
        assert page.js("window.saved.type") == "image/png" and page.js("window.saved.size") > 5000
        assert not page.errors


def test_figures_as_files(found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert plots.write(found, tmp_path / "plots") == "SVG; PNG too after pip install resvg-py"
    names = {"scores", "differences", "pairs", "pass-at-1-by-sampled-tokens", "reward-by-sampled-tokens"}
    assert {p.stem for p in (tmp_path / "plots").iterdir()} == names
    for path in (tmp_path / "plots").iterdir():
        root = ElementTree.parse(path).getroot()
        assert root.tag.endswith("svg") and root.get("width") == "720" and "var(" not in path.read_text()
    lines = (tmp_path / "plots" / "differences.svg").read_text()
    assert lines.count("class='line") == 2 and "[+0." in lines  # an interval for each of two arms


def test_figures_as_pictures(found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    assert plots.write(found, tmp_path / "plots") == "SVG, PNG"
    assert all(p.with_suffix(".png").read_bytes().startswith(b"\x89PNG") for p in (tmp_path / "plots").glob("*.svg"))
    monkeypatch.setattr(plots, "_picture", lambda svg: b"")  # a machine without fonts draws letters as nothing
    assert plots.write(found, tmp_path / "plots") == "SVG; PNG too after a font is installed (fonts-dejavu-core)"


def test_a_panel_for_each_of_many_arms(found: dict[str, Any]) -> None:
    assert plots.panels(found, "reward", "steps") is None
    many = {f"arm {n}": found["curves"]["steps"]["grpo"] for n in range(6)}
    made = plots.panels({"arms": [{"label": n} for n in many], "curves": {"steps": many}}, "reward", "steps")
    assert made is not None and made.inner.count("class='other'") == 6 * 5 and made.inner.count("band") == 6


def test_round_ticks_and_labels_apart() -> None:
    assert ticks(0, 150e3) == [0, 50e3, 100e3, 150e3] and ticks(0.62, 0.87, 5) == pytest.approx(
        [0.65, 0.7, 0.75, 0.8, 0.85]
    )
    places = apart([10, 11, 12, 300], 15, 300)
    assert places == [10, 25, 40, 300] and apart([299, 300], 15, 300) == [285, 300]


def test_amounts_are_short() -> None:
    assert [amount(x) for x in (None, 0.0, 12.0, 1234.0, 2e6, 3.21e12)] == ["–", "0", "12", "1.23k", "2M", "3.21T"]
