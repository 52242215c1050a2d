"""The report page: what it reads, what it survives, what it never does, and how it behaves in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from temper.page import Limits, read_run, write_report
from tests.browser import Browser, find_chromium
from tests.fake_run import write_fake_run

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!-- & \u2028"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "demo", steps=40, groups=8, attempts=6, snapshots=3)


def blocks(page: str) -> dict[str, Any]:
    """The data blocks of a page by id."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


# ---------------------------------------------------------------------------------------------------- reading


def test_reads_the_whole_run(run_dir: Path) -> None:
    data = read_run(run_dir)
    assert data["notes"] == [] and data["finished"]
    assert data["steps"] == list(range(1, 41))
    assert data["curves"]["reward"]["x"] == data["steps"]
    assert data["curves"]["controller/coefficient"]["y"][0] == pytest.approx(0.010025)
    assert 3 not in data["curves"]["sampling/mismatch_kl"]["x"], "a null is a gap, not a zero"
    assert len(data["curves"]["eval/pass@1"]["x"]) == 11
    assert len(data["histograms"]["hist/length"]) == 40
    assert [snapshot["step"] for snapshot in data["episodes"]] == [1, 20, 40]


def test_limits_bound_what_is_carried(run_dir: Path) -> None:
    limits = Limits(snapshots=2, groups=5, attempts=3, points=10, histograms=4, turn=8, text=12)
    data = read_run(run_dir, limits)
    assert [s["step"] for s in data["episodes"]] == [1, 40], "first and last are kept"
    assert all(len(s["groups"]) == 5 and s["total"] == 11 for s in data["episodes"])
    groups = [group for s in data["episodes"] for group in s["groups"]]
    assert {group["split"] for group in groups} == {"train", "eval"}, "the kept groups are varied"
    for group in groups:
        assert len(group["trajectories"]) <= 3 < group["attempts"] + 1
        for turn in group["turns"]:
            assert len(turn["tokens"]) <= 8
            assert all(not isinstance(c, list) or len(c) == len(turn["tokens"]) for c in turn["columns"].values())
    assert len(data["curves"]["reward"]["y"]) == 10 and len(data["histograms"]["hist/reward"]) == 4
    assert data["summary"]["examples"][0]["after"]["text"].endswith("more characters)")


def test_the_token_budget_keeps_at_least_one_group(run_dir: Path) -> None:
    data = read_run(run_dir, Limits(tokens=1))
    assert [len(s["groups"]) for s in data["episodes"]] == [1, 1, 1]


def test_a_long_turn_keeps_its_ends(tmp_path: Path) -> None:
    tokens = [f"t{i} " for i in range(100)]
    turn = {"parent": -1, "author": "a", "tokens": tokens, "sampled": True, "logp": [float(-i) for i in range(100)]}
    write_group(tmp_path, {"turns": [turn], "trajectories": [{"turns": [0]}]})
    (kept,) = read_run(tmp_path, Limits(turn=10))["episodes"][0]["groups"][0]["turns"]
    assert kept["length"] == 100 and kept["gap"] == 5
    assert kept["tokens"] == tokens[:5] + tokens[-5:]
    assert kept["columns"]["logp"] == [-0.0, -1.0, -2.0, -3.0, -4.0, -95.0, -96.0, -97.0, -98.0, -99.0]


def test_long_curves_are_averaged(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": i, "reward": float(i)} for i in range(1, 101)])
    assert read_run(tmp_path, Limits(points=2))["curves"]["reward"] == {"x": [25.5, 75.5], "y": [25.5, 75.5]}


def write_group(folder: Path, *groups: dict[str, Any]) -> None:
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(group) + "\n" for group in groups)
    (folder / "episodes" / "step_000010.jsonl").write_text(text, encoding="utf-8")


def write_metrics(folder: Path, rows: list[Any]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ forgiveness


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert blocks(page)["data"]["notes"] == ["run.json is missing.", "metrics.jsonl is missing."]


def test_a_half_written_last_line_is_left_out(run_dir: Path, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "episodes/step_000040.jsonl"):
        text = (run_dir / name).read_text(encoding="utf-8")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text[: int(len(text.rstrip()) - 40)], encoding="utf-8")
    data = read_run(tmp_path)
    assert data["steps"][-1] == 39 and not data["finished"]
    assert len(data["episodes"][0]["groups"]) == 10
    assert "metrics.jsonl: 1 unreadable line left out." in data["notes"]
    assert "episodes/step_000040.jsonl: 1 unreadable line left out." in data["notes"]


def test_a_step_written_twice_counts_once(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}, {"step": 2, "reward": 0.3}])
    assert read_run(tmp_path)["curves"]["reward"] == {"x": [1, 2], "y": [0.1, 0.3]}


@pytest.mark.parametrize(
    "group",
    [
        {},
        {"turns": None, "trajectories": 3, "task": "just text", "step": None},
        {"turns": [None, 5, {"tokens": None}], "trajectories": [None, {"turns": [0, 99, "x"], "rewards": 2}]},
        {"turns": [{"tokens": ["a", 1, None], "logp": [1, "x", None], "parent": 0}], "trajectories": [{}]},
        {"turns": [{"tokens": ["a"], "ratio": [float("inf")], "entropy": [float("nan")], "version": float("nan")}]},
    ],
)
def test_misshapen_groups_do_not_break_the_page(tmp_path: Path, group: dict[str, Any]) -> None:
    write_group(tmp_path, group)
    (shown,) = blocks(write_report(tmp_path).read_text(encoding="utf-8"))["episodes-0"]
    assert shown["step"] == 10


def test_misshapen_records_do_not_break_the_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[1, 2", encoding="utf-8")
    (tmp_path / "summary.json").write_text("[]", encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "x": NaN, "y": Infinity, "z": 1e999, "big": 1' + b"0" * 400 + b', "s": "text", "l": [1]}\n'
        b'{"step": "two"}\n\xff\xfe\n{"step": 2, "hist/a": {"edges": [1], "counts": [2]}, "ok": true}\n'
    )
    data = read_run(tmp_path)
    assert list(data["curves"]) == ["ok"] and data["histograms"] == {}
    assert len(data["notes"]) == 3
    write_report(tmp_path)


def test_half_a_character_is_kept_exactly(tmp_path: Path) -> None:
    tokens = ["\ud83d", "\ude00"]
    write_group(tmp_path, {"turns": [{"tokens": tokens, "parent": -1, "sampled": True}], "trajectories": []})
    page = write_report(tmp_path).read_bytes().decode("utf-8")
    assert blocks(page)["episodes-0"][0]["turns"][0]["tokens"] == tokens


# ----------------------------------------------------------------------------------------------------- safety


def hostile_run(folder: Path) -> Path:
    """A run whose every text tries to break out of the page."""
    write_fake_run(folder, steps=12, groups=2, attempts=3, snapshots=1)
    run = json.loads((folder / "run.json").read_text())
    run |= {"recipe": HOSTILE, "argv": [HOSTILE], "resolved": {HOSTILE: {"class": HOSTILE, HOSTILE: HOSTILE}}}
    (folder / "run.json").write_text(json.dumps(run))
    summary = json.loads((folder / "summary.json").read_text())
    summary["examples"] = [{"task": {"prompt": HOSTILE}, "before": {"text": HOSTILE}, "after": {"text": HOSTILE}}]
    (folder / "summary.json").write_text(json.dumps(summary))
    write_metrics(folder, [{"step": i, "reward": 0.5, HOSTILE: i} for i in range(12)])
    turn = {"parent": -1, "author": HOSTILE, "tokens": [HOSTILE, "\n", HOSTILE], "sampled": True, HOSTILE: [1, 2, 3]}
    judged = {"turns": [0], "role": HOSTILE, "reward": 1.0, "outcome": HOSTILE, "rewards": {HOSTILE: 1, "b": 2}}
    task = {"id": HOSTILE, "source": HOSTILE, "prompt": HOSTILE, "answer": HOSTILE, HOSTILE: HOSTILE}
    write_group(folder, {"task": task, "split": HOSTILE, "turns": [turn], "trajectories": [judged]})
    return folder


def test_text_from_the_run_cannot_leave_its_block(tmp_path: Path) -> None:
    page = write_report(hostile_run(tmp_path)).read_text(encoding="utf-8")
    assert page.lower().count("</script") == page.lower().count("<script") == len(blocks(page)) + 1
    assert "<img" not in page and "onerror" in page
    assert blocks(page)["data"]["run"]["recipe"] == HOSTILE


def test_nothing_is_loaded_from_anywhere(run_dir: Path) -> None:
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\s'\"<)]+", code)) == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    assert not re.search(r"<link|@import|\bsrc=|url\(|fetch\(|XMLHttpRequest|import\(", code)


def test_the_script_never_writes_markup() -> None:
    assets = Path(sys.modules["temper.page"].__file__ or "").parent / "assets"
    for script in assets.glob("*.js"):
        assert not re.search(r"innerHTML\s*=|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script.read_text())


def test_the_page_replaces_the_old_one_in_one_move(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    assert write_report(run_dir).read_bytes() == path.read_bytes(), "the same run gives the same page"
    assert not list(run_dir.glob(".report*"))


def test_no_heavy_imports() -> None:
    code = "import sys, temper.page; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_three_hundred_steps_take_at_most_a_second(tmp_path: Path) -> None:
    write_fake_run(tmp_path, steps=300, groups=16, attempts=16, snapshots=6)
    start = time.process_time()
    path = write_report(tmp_path)
    assert time.process_time() - start < 1.0
    assert path.stat().st_size < 6_000_000


# ---------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on this machine: the page is not opened in a browser")
    with Browser(binary) as page:
        yield page


@pytest.fixture
def page(browser: Browser, run_dir: Path) -> Browser:
    browser.open(write_report(run_dir))
    return browser


def test_opens_without_errors_or_requests(page: Browser, run_dir: Path) -> None:
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("file:")] == []
    assert page.js("[...document.querySelectorAll('h2')].map((h) => h.textContent)") == [
        "What happened in this run", "Before and after", "Learning curves", "Distributions", "Rollouts",
            "Example answers", "The run"]  # fmt: skip
    assert page.js("document.querySelector('.big').textContent") == "+30.0"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [380, 760, 1280])
def test_fits_every_width_in_both_schemes(browser: Browser, run_dir: Path, width: int, dark: bool) -> None:
    browser.open(write_report(run_dir), width=width, dark=dark)
    assert browser.js("document.documentElement.scrollWidth") == width
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in re.findall(r"\d+", ground)[:3]) < 200) == dark
    assert browser.errors == []


def test_the_theme_button_overrides_the_scheme(page: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.js(ground)
    page.click("#theme")
    assert page.js(ground) == light
    page.click("#theme")
    assert page.js(ground) != light
    page.click("#theme")


def test_pointing_at_a_curve_reads_every_chart(page: Browser) -> None:
    page.hover(".chart .plot", across=0.5)
    steps = page.js("[...document.querySelectorAll('#curves .when')].map((w) => w.textContent)")
    assert len(set(steps)) == 1 and steps[0] not in ("step 40", "")
    page.js("document.querySelector('.chart .plot').focus()")
    page.key("Home")
    assert page.js("document.querySelector('#curves .when').textContent") == "step 1"


def test_curves_toggle_scale_smoothing_and_axis(page: Browser) -> None:
    drawn = "document.querySelectorAll('.chart .line:not(.raw)').length"
    many = page.js(drawn)
    page.click(".chart .chip")
    assert page.js(drawn) == many - 1
    path = "document.querySelector('.chart .plot .line:not(.raw)').getAttribute('d')"
    plain = page.js(path)
    page.click("#curves .choice button[value=tokens]")
    by_tokens = page.js(path)
    assert by_tokens != plain
    page.js("document.querySelector('#smooth').focus()")
    page.key("Home")
    assert page.js("document.querySelectorAll('.line.raw').length") == 0
    log = "[...document.querySelectorAll('.chart')].find((c) => c.textContent.startsWith('KL')).querySelector"
    before = page.js(f"{log}('.line').getAttribute('d')")
    page.js(f"{log}('.tools button').click()")
    assert page.js(f"{log}('.line').getAttribute('d')") != before
    assert page.errors == []


def test_every_curve_can_be_found_and_opened(page: Browser) -> None:
    page.click(".everything summary")
    page.click(".everything input")
    page.type("weird")
    assert page.js("[...document.querySelectorAll('.curverow:not([hidden]) .key')].map((k) => k.textContent)") == [
        "debug/weird name"
    ]
    page.click(".curverow:not([hidden])")
    assert page.js("document.querySelectorAll('.pinned .line').length") > 0


def test_the_step_slider_moves_the_distributions(page: Browser) -> None:
    page.js("document.querySelector('#when').focus()")
    page.key("Home")
    assert page.js("document.querySelector('.heat .when').textContent").startswith("step 1,")


def test_a_chart_can_be_saved(page: Browser, tmp_path: Path) -> None:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind in ("svg", "png"):
        page.js(
            f"[...document.querySelectorAll('.chart .tools button')].find((b) => b.textContent === '{kind}').click()"
        )
    deadline = time.monotonic() + 10
    while not {"demo-reward.svg", "demo-reward.png"} <= {path.name for path in tmp_path.iterdir()}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    drawing = (tmp_path / "demo-reward.svg").read_text(encoding="utf-8")
    assert "var(" not in drawing and "light-dark" not in drawing and "accuracy" in drawing
    assert (tmp_path / "demo-reward.png").read_bytes().startswith(b"\x89PNG")


def open_group(page: Browser, text: str) -> None:
    find = f"[...document.querySelectorAll('.group')].find((g) => g.textContent.includes({json.dumps(text)}))"
    page.js(f"{find}.click()")
    page.settle()


def column(page: Browser, name: str) -> list[str]:
    return page.js(f"[...document.querySelectorAll('.attempts td.col-{name}')].map((c) => c.textContent)")


def test_attempts_sort_and_filter(page: Browser) -> None:
    open_group(page, "countdown")
    page.click("th.col-reward button")
    assert column(page, "reward") == ["1"] * 3 + ["0"] * 6
    page.click("th.col-reward button")
    assert column(page, "reward") == ["0"] * 6 + ["1"] * 3
    page.click("#rollouts .detail input[type=search]")
    page.type("22 <")
    assert len(column(page, "reward")) == 2
    page.click(".filters input")
    page.type("strawberry")
    assert page.js("document.querySelectorAll('.group').length") == 1


def test_attempts_by_keyboard(page: Browser) -> None:
    open_group(page, "countdown")
    page.js("document.querySelector('.attempts tr[aria-selected=true]').focus()")
    page.key("ArrowDown")
    assert page.js("document.querySelector('.attempthead h3').textContent") == "Attempt 2"


def test_a_token_tells_its_values(page: Browser) -> None:
    open_group(page, "countdown")
    page.click(".turn.sampled .tok")
    panel = page.js("document.querySelector('.inspector').textContent")
    known = ("token 1 of", "position 12", "advantage", "ratio", "log-prob", "entropynot set", "version 4", "token id")
    for part in known:
        assert part in panel
    page.js("document.querySelector('.tokens').focus({preventScroll: true})")
    page.key("ArrowRight")
    assert "token 2 of" in page.js("document.querySelector('.inspector').textContent")


@pytest.mark.parametrize("name", ["advantage", "ratio", "entropy", "logp", "gate"])
def test_tokens_are_coloured_by_each_column(page: Browser, name: str) -> None:
    open_group(page, "countdown")
    page.click(f".tokenview .choice button[value={name}]")
    shades = page.js("[...document.querySelectorAll('.tok.sampled')].map((t) => t.style.getPropertyValue('--a'))")
    assert any(shade not in ("", "0%") for shade in shades)
    assert page.js("document.querySelectorAll('.turn.given .tok[style]').length") == 0
    assert page.js("document.querySelector('.ramp').textContent") != ""


def test_trees_resets_and_roles_are_readable(page: Browser) -> None:
    open_group(page, "countdown")
    assert page.js("document.querySelectorAll('.tree .node').length") == 13
    assert page.js("document.querySelectorAll('.tree .node.on').length") == 3
    open_group(page, "strawberry")
    assert "fresh context" in page.js("document.querySelector('.divider').textContent")
    open_group(page, "nim")
    assert set(column(page, "role")) == {"player-1", "player-2"}
    turns = "document.querySelectorAll('.tokens .turn').length"
    assert page.js(turns) == 12, "a play of several roles is shown whole"
    page.click(".attempthead .choice button[value='1']")
    assert page.js(turns) == 6


def test_another_recorded_step(page: Browser) -> None:
    page.click("#rollouts .choice button[value='0']")
    assert "step 1" in page.js("document.querySelector('.problem .facts').textContent")


@pytest.mark.parametrize("width", [380, 1280])
def test_hostile_text_stays_text(browser: Browser, tmp_path: Path, width: int) -> None:
    browser.open(write_report(hostile_run(tmp_path)), width=width)
    assert browser.errors == [] and browser.js("document.querySelectorAll('img').length") == 0
    assert browser.js("document.title").startswith(HOSTILE[:30])
    assert HOSTILE[:30] in browser.js("document.querySelector('.tokens').textContent")
    assert browser.js("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("kept", [(), ("run.json",), ("metrics.jsonl",), ("episodes",), ("summary.json",)], ids=str)
def test_partial_runs_still_draw(browser: Browser, run_dir: Path, tmp_path: Path, kept: tuple[str, ...]) -> None:
    for name in kept:
        (tmp_path / name).symlink_to(run_dir / name)
    browser.open(write_report(tmp_path), width=380)
    assert browser.errors == [] and browser.js("document.querySelectorAll('.failed').length") == 0
    assert browser.js("document.documentElement.scrollWidth") == 380
    assert browser.js("document.querySelector('h1').textContent") != ""


def test_misshapen_groups_draw(browser: Browser, tmp_path: Path) -> None:
    odd = {"turns": [None, {"tokens": None}], "trajectories": [None, {"turns": [0, 99], "rewards": 2}]}
    loop = {"turns": [{"tokens": ["a"], "parent": 0, "sampled": 1}], "trajectories": [{"turns": [0]}]}
    write_group(tmp_path, {}, odd, loop, {"task": "text", "turns": [{"tokens": ["a"], "sampled": True}]})
    browser.open(write_report(tmp_path))
    count = browser.js("document.querySelectorAll('.group').length")
    assert count == 4
    browser.js("document.querySelectorAll('.group').forEach((group) => group.click())")
    assert browser.errors == []
