"""`temper compare`: what is refused, what is kept, what a failure costs, and the page in a browser."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from temper.cli import main
from temper.compare import arms, outcome, runs
from temper.compare.page import amount, render
from temper.errors import UserError
from tests.browser import Browser, find_chromium

BUDGET = "40-sampled-tokens"


def write_run(folder: Path, passed: list[int], budget: float = 100, step: float = 25.0) -> None:
    """A finished run: four attempts at each task, rewards that rise, and what was spent."""
    folder.mkdir(parents=True)
    n = len(passed)
    rows: list[dict[str, Any]] = [{"step": 0, "eval/pass@1": 0.25}]
    total = 0.0
    while total < budget:
        total += step
        rows.append({"step": len(rows), "reward": total / 200, "ledger/total/sampled_tokens": total})
    rows[-1]["eval/pass@1"] = sum(passed) / n / 4
    tasks = [["sums" if i < n // 2 else "words", f"t{i}"] for i in range(n)]
    ledger = {"sampled_tokens": total, "trained_tokens": total, "forward_flops": 3e9, "peak_memory_mib": 300.0}
    summary = {"steps": len(rows) - 1, "seconds": 2.0, "ledger": ledger}
    summary["passes"] = {"tasks": tasks, "attempts": 4, "before": [1] * n, "after": passed}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    """Three arms with three seeds: one is better than both others, which are alike; a fourth failed."""
    made = arms.arms_of(["grpo", "better: grpo --lr 3e-4", "rloo --attempts 8", "<b>bad & worse</b>: grpo"])
    jobs = runs.jobs(made, range(3), tmp_path, BUDGET)
    for job in jobs:
        up = {"grpo": 0, "better": 2, "rloo-attempts-8": 0}.get(job.arm.label)
        if up is not None:
            some = [(job.seed + i + (job.arm.label == "grpo")) % 2 for i in range(8)]
            write_run(job.folder, [up + n + (i == 3) for i, n in enumerate(some)])
    failed = {"b-bad-worse-b, seed 0": "out of luck <script>alert(1)</script>"}
    return outcome.read(jobs, {"sampled_tokens": 100.0}, failed, "temper compare …")


def test_arms_have_names_of_their_own() -> None:
    made = arms.arms_of(["grpo", "grpo --clip 0.28", "mine: grpo --clip 0.3", "/there/file.py:recipe"])
    assert [a.label for a in made] == ["grpo", "grpo-clip-0.28", "mine", "file"]
    assert made[1].argv(2, "1k-flops") == ["grpo", "--clip", "0.28", "--seed", "2", "--budget", "1k-flops"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["grpo"], "at least two arms"),
        (["grpo", "grpo"], "two arms are called 'grpo'"),
        (["grpo", "'"], "cannot be read"),
        (["grpo", ""], "an arm is empty"),
        (["grpo", "grpoo"], "arm 'grpoo': "),
        (["grpo", "grpo --clipp 1"], "arm 'grpo-clipp-1': unknown option '--clipp'"),
        (["grpo", "grpo --seed 3"], "--seed is given to the comparison"),
        (["grpo", "rloo --eval-tasks 8"], "are not judged alike"),
        (["grpo", "rloo", "--budget", "8-hours"], "budget"),
        (["grpo", "rloo", "--seeds", "0"], "--seeds must be at least 1"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1, said
    assert not list(tmp_path.rglob("summary.json")) and not (tmp_path / "runs").exists()


def test_another_comparison_in_the_folder_is_refused(tmp_path: Path) -> None:
    made = arms.arms_of(["a: grpo", "b: rloo"])
    runs.claim(made, BUDGET, tmp_path)
    runs.claim(arms.arms_of(["b: rloo", "c: grpo"]), BUDGET, tmp_path)  # other arms may join
    with pytest.raises(UserError, match="holds arm 'a' with other options"):
        runs.claim(arms.arms_of(["a: rloo", "b: rloo"]), BUDGET, tmp_path)
    with pytest.raises(UserError, match="holds runs of 40-sampled-tokens"):
        runs.claim(made, "1M-flops", tmp_path)


def fake(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Runs are this script, with its folder and seed as arguments."""
    monkeypatch.setattr(runs.Job, "command", lambda job: [sys.executable, "-c", script, str(job.folder), str(job.seed)])


def test_a_failed_run_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys, pathlib as p; f = p.Path(sys.argv[1]); f.mkdir()\n"
    script += "if 'b' in f.parts[-2] and sys.argv[2] == '0': sys.exit('temper: error: no memory')\n"
    fake(monkeypatch, script + "(f / 'summary.json').write_text('{}')")
    jobs = runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(2), tmp_path, BUDGET)
    assert [job.name for job in jobs] == ["a, seed 0", "b, seed 0", "a, seed 1", "b, seed 1"]
    said: list[str] = []
    failed = runs.train(jobs, 2, said.append)
    assert list(failed) == ["b, seed 0"] and failed["b, seed 0"].startswith("no memory (log: ")
    assert [job.done for job in jobs] == [True, False, True, True]
    again: list[str] = []
    runs.train(jobs, 2, again.append)
    assert again[0] == "3 of 4 runs are finished already" and len(again) == 2


def test_a_run_that_was_begun_is_resumed(tmp_path: Path) -> None:
    job = runs.jobs(arms.arms_of(["a: grpo --lr 1e-4", "b: rloo"]), range(1), tmp_path, BUDGET)[0]
    fresh = job.command()
    assert fresh[3:] == [
        *("run", "grpo", "--lr", "1e-4", "--seed", "0", "--budget", BUDGET, "--out", str(job.folder), "--threads", "1")
    ]
    job.folder.mkdir(parents=True)
    (job.folder / "run.json").write_text("{}")
    assert job.command() == [*fresh, "--resume"]


def test_an_interrupted_comparison_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "import time; time.sleep(60)")
    started: list[subprocess.Popen[bytes]] = []
    start = runs._start
    monkeypatch.setattr(runs, "_start", lambda *a: started.append(start(*a)) or started[-1])
    threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        runs.train(runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET), 2, print)
    assert len(started) == 2 and all(p.poll() is not None for p in started)


def test_what_is_told_apart_and_what_is_not(found: dict[str, Any]) -> None:
    better, other = found["against_first"]
    assert better["arm"] == "better" and better["verdict"] == "better" and better["low"] > 0
    assert other["arm"] == "rloo-attempts-8" and other["verdict"] == "cannot be told apart"
    assert {a["label"]: a["rank"] for a in found["arms"][:3]} == {"better": 1, "grpo": 2, "rloo-attempts-8": 2}
    assert found["arms"][3]["pass@1"] is None and found["arms"][3]["rank"] is None
    assert any("better is better than grpo" in line for line in found["reading"])
    assert found["notes"][0].startswith("b-bad-worse-b: 0 of 3 runs finished")
    assert found["curves"]["grpo"]["reward"]["x"][-1] == 100 and found["curves"]["grpo"]["pass@1"]["mean"][0] == 0.25


def test_arms_that_ended_before_the_budget_are_named(tmp_path: Path) -> None:
    jobs = runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET)
    for job, budget in zip(jobs, (100, 50)):
        write_run(job.folder, [1, 2, 3, 4], budget)
    found = outcome.read(jobs, {"sampled_tokens": 100.0}, {}, "")
    assert (
        "b: 1 runs ended by their own steps or tasks before the budget (50 of 100 sampled tokens)" in found["notes"][0]
    )
    assert "One seed" in found["notes"][1] and found["against_first"][0]["low"] is None


def test_nothing_finished_or_a_damaged_run_is_one_line(tmp_path: Path) -> None:
    jobs = runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET)
    with pytest.raises(UserError, match="no run is finished: it broke"):
        outcome.read(jobs, {"flops": 1.0}, {"a, seed 0": "it broke"}, "")
    write_run(jobs[0].folder, [1, 2])
    (jobs[0].folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        outcome.read(jobs, {"sampled_tokens": 1.0}, {}, "")
    (jobs[0].folder / "summary.json").unlink()
    (jobs[0].folder / "metrics.jsonl").unlink()
    jobs[0].folder.rmdir()
    write_run(jobs[0].folder, [1, 2])
    write_run(jobs[1].folder, [1, 2, 3])
    with pytest.raises(UserError, match="different held-out tasks"):
        outcome.read(jobs, {"sampled_tokens": 1.0}, {}, "")


def test_amounts_are_short() -> None:
    assert [amount(x) for x in (None, 0.0, 12.0, 1234.0, 2e6, 3.21e12)] == ["–", "0", "12", "1.23k", "2M", "3.21T"]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium")
def test_the_page_in_a_browser(found: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(render(found), encoding="utf-8")
    with Browser(find_chromium() or "") as page:
        grounds = []
        for width, dark in ((1280, False), (390, True)):
            page.open(path, width=width, dark=dark)
            assert page.js("document.documentElement.scrollWidth") <= width
            assert page.js("document.querySelectorAll('svg').length") == 3
            assert page.js("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 40)")
            shown = page.js("document.body.innerText")
            assert "better is better than grpo by" in shown and "out of luck <script>" in shown
            line = page.js("document.querySelector('polyline').points.length")
            assert line == 60 and not page.errors and [r for r in page.requests if not r.startswith("file:")] == []
            grounds.append(page.js("getComputedStyle(document.body).backgroundColor"))
        assert grounds[0] != grounds[1]


def test_from_the_command_line_to_the_page(toy_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two arms, two processes, real runs; called again, nothing is trained."""
    small = f"--model {toy_model} --groups 2 --attempts 2 --max-tokens 4 --eval-tasks 4 --eval-attempts 1"
    out = tmp_path / "c"
    argv = ["compare", f"a: grpo {small}", f"b: rloo {small}", "--seeds", "1", "--budget", BUDGET, "--out", str(out)]
    assert main([*argv, "--jobs", "2"]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "a, seed 0: done" in said and "One seed says nothing about others" in said
    result = json.loads((out / "compare.json").read_text())
    assert [a["label"] for a in result["arms"]] == ["a", "b"] and all(a["spent"]["0"] >= 40 for a in result["arms"])
    first = [json.loads((out / arm / "seed-0" / "metrics.jsonl").read_text().splitlines()[1]) for arm in "ab"]
    assert first[0]["reward"] == first[1]["reward"]  # the same tasks, the same draws: the first step is the same
    assert first[0]["ledger/total/sampled_tokens"] == first[1]["ledger/total/sampled_tokens"]
    assert (out / "a" / "seed-0" / "report.html").is_file() and (out / "compare.html").is_file()
    began = time.perf_counter()
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"] == result["arms"] and time.perf_counter() - began < 10
