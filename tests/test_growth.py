"""What grows stays linear: curves are measured and fitted, and what was mended gives what it gave before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from temper.backends.local import _picked
from temper.bench import growth
from temper.bridge import to_batch, to_episodes
from temper.carrier import Batch
from temper.cli import main
from temper.columns import LOGP, REWARD, TOKEN, TRAJECTORY
from temper.episode import Episode, Recorder
from temper.models.plan import Unit, plan_of, planned
from temper.report import Reporter
from temper.tasks.task import Task
from tests.browser import Browser, find_chromium


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_larger_sizes(power: float) -> None:
    sizes = [1, 10, 100, 1000, 10_000]
    assert growth.exponent(sizes, [1.0, 1.0, *(n**power for n in sizes[2:])]) == pytest.approx(power)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(growth, "CURVES", tuple(replace(c, sizes=(80, 160)) for c in growth.CURVES))
    monkeypatch.setattr(growth, "STARTS", {"import temper": growth.STARTS["import temper"]})
    assert main(["bench", "--growth", "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "growth.json").read_text())
    assert [len(c["seconds"]) for c in data["curves"]] == [len(c["sizes"]) for c in data["curves"]]
    assert all(s > 0 for c in data["curves"] for s in c["seconds"]) and data["starts"]["import temper"] > 0
    text, drawn = (tmp_path / "growth.md").read_text(), (tmp_path / "growth.svg").read_text()
    said = capsys.readouterr().out
    for curve in growth.CURVES:
        assert curve.name in text and curve.name in drawn and curve.name in said
    assert drawn.count("<polyline") == len(growth.CURVES)


def test_a_browser_opens_ten_thousand_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly more than eighty take: the page holds a bounded part of the transcripts (`-s` shows the figures)."""
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on this machine: the page is not opened in a browser")
    monkeypatch.setattr(growth, "_scratch", SimpleNamespace(name=str(tmp_path)))
    cpu = {}
    for n in (80, 10_000):
        growth._page_of_episodes(n)()
        page = tmp_path / f"episodes-{n}" / "report.html"
        with Browser(binary) as browser:
            before = browser.cpu()
            browser.open(page)
            cpu[n] = browser.cpu() - before
            shown = browser.js("performance.getEntriesByType('navigation')[0].loadEventEnd")
            assert browser.errors == []
        print(f"{n} episodes: {page.stat().st_size:,} bytes, {cpu[n]:.2f} CPU s, loaded after {shown:.0f} ms")
    assert cpu[10_000] < 5 * cpu[80] + 1


def test_more_than_linear_is_said() -> None:
    row = {"name": "n", "each": "steps", "sizes": [1, 10, 100], "seconds": [1.0, 100.0, 10_000.0], "exponent": 2.0}
    assert "MORE THAN LINEAR" in growth.line(row) and "MORE" not in growth.line({**row, "exponent": 1.05})


def test_help_and_import_stay_light() -> None:
    import subprocess
    import sys

    code = "import sys, temper.cli, temper.page; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert min(growth._started(growth.STARTS["temper --help"]) for _ in range(3)) < 1.0


def forked() -> list[Episode]:
    """Two plays of one request: a stem with two branches, one of them not judged; and an answer on its own."""
    record = Recorder(Task("t", "2+2=?"))
    prompt = record.add((1, 2))
    stem = record.add((3, 4), prompt, author="solver")
    left = record.add((5,), stem, author="solver")
    record.add((6, 7), stem, author="solver")
    fresh = record.add((8,), -1, author="solver")
    record.judge([prompt, stem, left, fresh], reward=1.0, rewards={"x": 0.5})
    alone = Recorder(Task("t", "2+2=?"))
    alone.judge([alone.add((1, 2)), alone.add((9, 9), 0, author="solver")], reward=None, outcome="timeout")
    return [record.episode(), alone.episode()]


def test_episodes_come_back_with_what_is_judged_and_its_context() -> None:
    b = to_batch(forked())
    b = b.put(LOGP.of("behaviour"), -torch.arange(float(b.size(TOKEN))))
    first, second = to_episodes(b)
    assert [t.ids for t in first.turns] == [(1, 2), (3, 4), (5,), (8,)]
    assert [t.parent for t in first.turns] == [-1, 0, 1, -1]
    assert [t.logp for t in first.turns] == [None, (0.0, -1.0), (-2.0,), (-3.0,)]
    assert first.trajectories[0].turns == (0, 1, 2, 3) and first.trajectories[0].rewards == {"x": 0.5}
    assert [t.ids for t in second.turns] == [(1, 2), (9, 9)] and second.trajectories[0].reward is None
    again = to_batch([first, second])
    assert torch.equal(again[LOGP.of("behaviour")], b[LOGP.of("behaviour")])
    assert again.structure.paths == [[0, 1, 2, 3], [0, 4]]


def test_parts_that_are_halved_again_and_again_are_those_of_the_whole() -> None:
    b = Batch.concat([to_batch(growth._group(k)) for k in range(7)])
    unit = torch.arange(b.size(TRAJECTORY)) % 23
    parts = [[3, 0], [1], [7, 5, 22], [2, 4], list(range(8, 22)), [6]]
    for part, taken in zip(_picked(b, unit, parts), parts, strict=True):
        whole = b.select(torch.tensor([u in taken for u in unit.tolist()]))
        assert torch.equal(part.structure.ids, whole.structure.ids) and torch.equal(part[REWARD], whole[REWARD])
        assert torch.equal(part.structure.member, whole.structure.member)
        assert torch.equal(part.structure.group, whole.structure.group)


def test_a_plan_puts_every_column_in_its_place() -> None:
    """Three stretches of 3, 2 and 5 tokens, the last two behind the first, and an empty one."""
    units = [Unit(-1, [0], 3), Unit(0, [1], 2), Unit(0, [2], 5), Unit(0, [3], 0)]
    plan = plan_of(planned(units))
    assert plan is not None
    seen: dict[int, set[int]] = {}
    columns = []
    for piece in plan.pieces:
        for row, (queries, keys) in enumerate(zip(piece.queries.tolist(), piece.keys.tolist())):
            for place, query in enumerate(queries):
                allowed = (
                    range(place + 1)
                    if piece.mask is None
                    else torch.nonzero(piece.mask[row % len(piece.mask), 0, place])
                )
                seen.setdefault(query, {keys[int(k)] for k in allowed})
                columns.append(query)
    assert [columns[i] for i in plan.back.tolist()] == list(range(10))
    assert seen[2] == {0, 1, 2} and seen[4] == {0, 1, 2, 3, 4} and seen[7] == {0, 1, 2, 5, 6, 7}


def test_a_run_remembers_its_last_records_only(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 2501)))

    class Run:
        name, out, steps = "long", tmp_path, 2500

    reporter = Reporter(Run())  # type: ignore[arg-type]
    reporter.offset = (tmp_path / "metrics.jsonl").stat().st_size
    assert [r["step"] for r in reporter._kept()] == list(range(1501, 2501))
