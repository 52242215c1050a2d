"""What happened in this run, on the report page, in a real browser; and the lines of temper explain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from temper.cli import main
from temper.console import closing
from temper.page import write_report
from tests.browser import Browser, find_chromium
from tests.fake_run import write_fake_run


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run whose answers are cut off and which a second checker often judges otherwise."""
    folder = write_fake_run(tmp_path_factory.mktemp("runs") / "sick", steps=40, groups=6, attempts=4, snapshots=3)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"completions/clipped_ratio": 0.4, "verifier/compared": 32, "verifier/disagreement": 0.25}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium here")
    with Browser(binary) as page:
        yield page


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_findings_lead_to_their_evidence(browser: Browser, sick: Path, width: int, dark: bool) -> None:
    browser.open(write_report(sick), width, 900, dark)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}, scheme]
    browser.call("Emulation.setEmulatedMedia", features=still)  # no scrolling under the pointer
    assert not browser.errors and all(r.startswith("file:") for r in browser.requests)
    assert browser.js("document.documentElement.scrollWidth") <= width, "the page does not scroll sideways"
    names = browser.js("[...document.querySelectorAll('.finding h3')].map((x) => x.innerText)")
    assert [n.removeprefix("alarm").strip() for n in names] == ["verifier disagreement", "truncation"]
    said = browser.js("document.querySelector('.finding:nth-child(2)').innerText")
    assert "40 % of the answers were cut off" in said and "--max-tokens" in said and "`" not in said
    browser.click(".finding:nth-child(2) .evidence button")
    browser.until("document.querySelector('.chart.pointed') !== null")
    assert "Truncated share" in browser.js("document.querySelector('.chart.pointed').innerText")
    browser.click(".finding:nth-child(1) .evidence button")  # a curve that no chart of its own shows
    browser.until("document.querySelector('.pinned figure.pointed') !== null")
    assert "verifier/disagreement" in browser.js("document.querySelector('.pinned figure').innerText")
    browser.click(".finding:nth-child(1) .evidence button:last-child")
    assert browser.js("document.querySelector('#rollouts').classList.contains('pointed')")
    tables = browser.js("[...document.querySelectorAll('#happened .facts-card h3')].map((x) => x.innerText)")
    assert tables == ["Reliability", "Coverage"] and "judged otherwise" in browser.js("document.body.innerText")
    assert not browser.errors


def test_a_healthy_run_says_so(browser: Browser, tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "fine", steps=30, groups=4, attempts=4, snapshots=2)
    browser.open(write_report(folder))
    text = browser.js("document.getElementById('happened').innerText")
    assert "Nothing out of the ordinary" in text and "Looked for in vain" in text
    assert not browser.errors


def test_the_terminal_says_the_same(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(sick)]) == 0
    shown = capsys.readouterr().out
    assert "! truncation" in shown and "40 % of the answers were cut off" in shown and "`--max-tokens`" in shown
    assert "could not be looked for" in shown and "reliability" in shown
    assert main(["explain", str(sick), "--as-json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in told["findings"]] == ["verifier disagreement", "truncation"]
    summary = {"steps": 40, "tokens": 1.0, "seconds": 2.0, "diagnosis": told}
    assert [line[0] for line in closing(summary)[-2:]] == ["!", "!"], "a line each at the end of a run"
    assert main(["explain", str(sick / "episodes")]) == 2
    assert "is no run directory" in capsys.readouterr().err
