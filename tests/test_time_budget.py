"""Where the time of a run goes: every moment is counted once, from the clock to the page."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from temper.clock import Clock
from temper.loop import train
from temper.page import write_report
from temper.tools.base import Call, Result, Toolbox
from tests.browser import Browser, find_chromium
from tests.core.busy import busy
from tests.fake_run import write_fake_run


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_each_moment_is_counted_once(ticks: list[float]) -> None:
    clock = Clock()
    ticks[0] = 1.0
    with clock.on("rollout"):
        ticks[0] = 3.0
        with clock.on("reward"):
            ticks[0] = 4.0
            with clock.on("tools"):  # of another attempt
                ticks[0] = 7.0
            ticks[0] = 8.0
        ticks[0] = 10.0
    ticks[0] = 10.5
    assert clock.take() == {"other": 1.5, "sampling": 4.0, "reward": 2.0, "tools": 3.0}
    with clock.on("evaluation"), clock.on("reward"), clock.on("rollout"):
        ticks[0] = 12.0
    assert clock.take() == {"other": 0.0, "evaluation": 1.5}


def test_blocks_that_overlap_count_once_and_errors_end_them(ticks: list[float]) -> None:
    clock = Clock()
    one, two = clock.on("tools"), clock.on("tools")
    one.__enter__()
    ticks[0] = 1.0
    two.__enter__()
    ticks[0] = 2.0
    one.__exit__(None, None, None)
    ticks[0] = 3.0
    assert not two.__exit__(ValueError, ValueError("mine"), None)  # the error goes on
    ticks[0] = 5.0
    assert clock.take() == {"tools": 3.0, "other": 2.0}


def test_a_toolbox_tells_when_its_tools_run() -> None:
    class Wait:
        name, description = "wait", "waits"

        @property
        def parameters(self) -> dict[str, Any]:
            return {"type": "object", "properties": {}}

        async def __call__(self) -> Result:
            await asyncio.sleep(0.05)
            return Result("done")

    async def twice() -> None:
        async with box.episode() as tools:
            assert [r.outcome for r in await asyncio.gather(*(tools.run(Call("wait")) for _ in range(2)))] == ["ok"] * 2

    clock, box = Clock(), Toolbox([Wait()])
    box.timed = clock.on
    asyncio.run(twice())
    assert 0.045 < clock.take()["tools"] < 0.095  # both waited at the same time


def test_a_run_says_where_its_time_went(toy_model: str, tmp_path: Path) -> None:
    began = time.perf_counter()
    asyncio.run(train(busy(toy_model, tmp_path / "run", ahead=0, steps=3)))
    wall = time.perf_counter() - began
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kept = {"sampling", "reward", "stages", "update", "sync", "evaluation", "other"}
    assert kept <= set(summary["spent"]) and all(v >= 0 for v in summary["spent"].values())
    assert sum(r.get("timing_s/step", 0.0) for r in rows) < sum(summary["spent"].values()) < wall
    assert summary["spent"]["evaluation"] >= rows[0]["timing_s/spent/evaluation"] > 0
    for row in rows[1:]:
        spent = {k.rpartition("/")[2]: v for k, v in row.items() if k.startswith("timing_s/spent/")}
        assert sum(v for k, v in spent.items() if k != "evaluation") >= row["timing_s/step"] - 0.01
        assert spent["update"] == pytest.approx(row["timing_s/update"], abs=0.01)
        assert spent["sampling"] <= row["timing_s/rollout"] + 0.01


def test_the_garbage_collector_passes_over_what_stays_while_a_run_lasts(toy_model: str, tmp_path: Path) -> None:
    run, stays = busy(toy_model, tmp_path / "run", ahead=0, steps=1), list[int]()

    class Probe:
        async def __call__(self, run: Any, step: int) -> dict[str, float]:
            stays.append(gc.get_freeze_count())
            return {}

    run.probes.append(Probe())
    asyncio.run(train(run))
    assert min(stays) > 10_000 and gc.get_freeze_count() == 0


# ---------------------------------------------------------------------------------------------------- browser


@pytest.fixture
def page() -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on this machine: the page is not opened in a browser")
    with Browser(binary) as opened:
        yield opened
        assert opened.errors == []


def with_budget(folder: Path, spent: dict[str, Any]) -> Path:
    write_fake_run(folder, steps=4, groups=4, attempts=2, snapshots=1)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "spent": spent}))
    return write_report(folder)


def test_the_page_shows_the_budget_as_a_bar_and_a_list(page: Browser, tmp_path: Path) -> None:
    spent = {"sampling": 60.0, "tools": 15.0, "update": 20.0, "other": 5.0, "reward": 0.0}
    page.open(with_budget(tmp_path, spent))
    rows = page.js(
        "[...document.querySelectorAll('.budget li')].map((e) => [e.dataset.stage, e.querySelector('b').textContent])"
    )
    assert rows == [["sampling", "60.0%"], ["tools", "15.0%"], ["update", "20.0%"], ["other", "5.0%"]]
    widths = page.js("[...document.querySelectorAll('.budget .spent i')].map((e) => e.getBoundingClientRect().width)")
    assert [round(100 * w / sum(widths)) for w in widths] == [60, 15, 20, 5]
    heights = page.js("[...document.querySelectorAll('.budget .spent i')].map((e) => e.getBoundingClientRect().height)")
    assert min(heights) >= 8  # it can be seen
    said = page.js("document.querySelector('.budget .spent').getAttribute('aria-label')")
    assert said == "time: sampling 60.0%, tools 15.0%, update 20.0%, other 5.0%"


def test_a_run_without_a_budget_has_no_bar(page: Browser, tmp_path: Path) -> None:
    page.open(write_report(write_fake_run(tmp_path, steps=4, groups=4, attempts=2, snapshots=1)))
    assert page.js("document.querySelectorAll('.budget').length") == 0
