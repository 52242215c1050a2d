"""Successive halving: who goes on, what is kept, and that the winner is judged where the search has not looked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.cli import main
from temper.cli.search import tried
from temper.compare import runs
from temper.compare.runs import Job
from temper.compare.search import Search, claim, climb, half, measure, reading, result
from temper.compare.search_page import render
from temper.errors import UserError
from temper.ledger import budget_of
from tests.browser import Browser, find_chromium
from tests.compare.conftest import write_run

GRID = {"lr": ["1", "2", "3"], "beta": ["0", "1"]}
Train = Callable[[list[Job]], dict[str, str]]


def search_in(folder: Path, **options: Any) -> Search:
    return Search(("grpo",), GRID, "900-sampled-tokens", folder, **options)


def trainer(passed: Callable[[Job], list[int]], log: list[str]) -> Train:
    """Runs that are written instead of trained; None where `passed` says None: they fail."""

    def train(jobs: list[Job]) -> dict[str, str]:
        failed = {}
        for job in (j for j in jobs if not j.done):
            log.append(f"{job.arm.label} {job.seed} {job.budget}")
            done = passed(job)
            if done is None:
                failed[job.name] = "no memory"
                continue
            if job.folder.exists():  # a rung above goes on with the same run
                for path in job.folder.iterdir():
                    path.unlink()
                job.folder.rmdir()
            write_run(job.folder, done, 900, 100.0)
            summary = json.loads((job.folder / "summary.json").read_text())
            (job.folder / "summary.json").write_text(json.dumps({**summary, "budget": budget_of(job.budget)}))
        return failed

    return train


def skill(job: Job) -> list[int]:
    """lr 3 is best in the search's half, and worst in the other."""
    lr, beta = (int(part.partition("=")[2]) for part in job.arm.label.split("-")) if "=" in job.arm.label else (2, 0)
    looked, other = lr + (beta == 1), 4 - lr
    return [looked, other] * 4


def test_rungs_by_compute(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    assert [a.label for a in search.candidates][:2] == ["lr=1-beta=0", "lr=1-beta=1"]
    assert search.candidates[5].words == ("grpo", "--lr=3", "--beta=1")
    assert search.sizes == [6, 2] and [search.rung_budget(r) for r in range(2)] == [
        "300-sampled-tokens",
        "900-sampled-tokens",
    ]
    assert search.cost == 6 / 3 + 2 * (1 - 1 / 3) + 2 * 3  # six up to a third, two on to the end, winner and defaults
    assert search_in(tmp_path, cut=2).sizes == [6, 3, 2] and search_in(tmp_path, cut=6).sizes == [6]


def test_the_best_go_on_and_the_winner_is_judged_elsewhere(tmp_path: Path) -> None:
    log: list[str] = []
    search = search_in(tmp_path, looks=2, seeds=2)
    claim(search)
    rungs = climb(search, trainer(skill, log))
    assert [next(iter(rung["scores"])) for rung in rungs] == ["lr=3-beta=1"] * 2
    assert len(rungs[0]["scores"]) == 6 and len(rungs[1]["scores"]) == 2
    assert (
        len(log) == 6 * 2 + 2 * 2
        and log[-1].endswith("900-sampled-tokens")
        and log[0].endswith(" 0 300-sampled-tokens")
    )
    fresh = measure(search, "lr=3-beta=1", trainer(skill, log))
    assert [line.split()[:2] for line in log[-4:]] == [
        ["lr=3-beta=1", "2"], ["defaults", "2"], ["lr=3-beta=1", "3"], ["defaults", "3"],
    ]  # fmt: skip
    found = result(search, rungs, fresh, "temper search …")
    assert found["in_search"] == 1.0 and fresh["by_seed"] == {
        "lr=3-beta=1": {"2": 0.25, "3": 0.25},
        "defaults": {"2": 0.5, "3": 0.5},
    }
    said = " ".join(found["reading"])
    assert "1.000; it was chosen for being high, so that figure is no result" in said
    assert "worse than the defaults by -0.250" in said and "0.250. The recipe's defaults: 0.500" in said


def test_what_is_finished_is_kept(tmp_path: Path) -> None:
    """Killed within the second rung: the first is not trained again, nor is the run that was over."""
    search, log = search_in(tmp_path), list[str]()

    def killed(job: Job) -> list[int]:
        if job.budget.startswith("900") and any(line.endswith("900-sampled-tokens") for line in log[:-1]):
            raise KeyboardInterrupt
        return skill(job)

    with pytest.raises(KeyboardInterrupt):
        climb(search, trainer(killed, log))
    assert len(log) == 6 + 2
    again: list[str] = []
    rungs = climb(search, trainer(skill, again))
    assert again == log[-1:] and next(iter(rungs[-1]["scores"])) == "lr=3-beta=1"
    climb(search, trainer(skill, again))
    assert len(again) == 1
    (tmp_path / "rungs.json").write_text("[{")
    with pytest.raises(UserError, match=r"rungs.json is damaged .*: delete it"):
        climb(search, trainer(skill, again))


def test_a_candidate_that_fails_is_left_out(tmp_path: Path) -> None:
    log: list[str] = []
    rungs = climb(search_in(tmp_path), trainer(lambda j: None if "lr=3" in j.arm.label else skill(j), log))
    assert not any("lr=3" in n for n in rungs[0]["scores"]) and len(rungs[0]["failed"]) == 2
    assert next(iter(rungs[1]["scores"])) == "lr=2-beta=1"
    with pytest.raises(UserError, match="every candidate failed: no memory"):
        climb(search_in(tmp_path / "other"), trainer(lambda _: None, log))


def test_halves_of_every_source() -> None:
    tasks = [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("b", "2")]
    assert half(tasks, True) == [0, 2, 3] and half(tasks, False) == [1, 4]


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    claim(search_in(tmp_path))
    claim(search_in(tmp_path, seeds=5))  # more fresh seeds may join
    with pytest.raises(UserError, match="holds another search"):
        claim(search_in(tmp_path, cut=2))


def test_one_fresh_seed_has_no_interval() -> None:
    gap = {"mean": 0.1, "low": None, "high": None}
    fresh = {"by_seed": {"x": {"1": 0.6}, "defaults": {"1": 0.5}}, "tasks": 8, "difference": gap}
    found = {"fresh": fresh, "winner": "x", "in_search": 0.7, "rungs": [{"scores": {"x": 0.7, "y": 0.6}}]}
    assert reading(found)[-1] == "The difference is +0.100; one seed has no interval."
    fresh["difference"] = {"mean": 0.1, "low": -0.1, "high": 0.3}
    assert "leaves open whether the search has found anything better" in reading(found)[-1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["grpo"], "give --try two values"),
        (["grpo", "--try", "lr=1e-4"], "give --try two values"),
        (["grpo", "--try", "lr"], "--try looks like"),
        (["grpo", "--try", "lr=1e-4,1e-4"], "has a value twice"),
        (["grpo", "rloo", "--try", "lr=1e-4,3e-4"], "about one recipe"),
        (["grpo", "--try", "learning=1,2"], "arm 'learning=1': unknown option '--learning'"),
        (["grpo", "--try", "lr=1e-4,3e-4", "--cut", "1"], "--cut must be at least 2"),
        (["grpo", "--try", "lr=1e-4,3e-4", "--", "--eval-tasks", "7"], "two held-out tasks of every kind"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", *words]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_what_is_tried() -> None:
    grid, rest = tried(["grpo", "--try", "clip_low=0.1,0.2", "--seeds", "2", "--try=beta=0,0.04", "--", "--try", "x"])
    assert grid == {"clip-low": ["0.1", "0.2"], "beta": ["0", "0.04"]}
    assert rest == ["grpo", "--seeds", "2", "--", "--try", "x"]


def test_from_the_command_line_to_the_page(
    toy_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three candidates on two rungs: real runs, in this process; the second rung goes on from the first."""
    torch.set_num_threads(1)
    started: list[list[str]] = []

    def train(todo: list[Job], *_: Any) -> dict[str, str]:
        for job in (j for j in todo if not j.done):
            started.append(job.command()[3:])
            assert main(started[-1]) == 0
        return {}

    monkeypatch.setattr(runs, "train", train)
    small = f"--model {toy_model} --groups 2 --attempts 2 --max-tokens 4 --eval-tasks 14 --eval-attempts 1"
    argv = ["search", f"grpo {small}", "--try", "lr=1e-4,3e-4,1e-3", "--cut", "2", "--seeds", "1"]
    argv += ["--budget", "40-sampled-tokens", "--out", str(tmp_path / "s")]
    assert main(argv) == 0, capsys.readouterr()
    assert "so that figure is no result" in capsys.readouterr().out
    assert len(started) == 3 + 2 + 2 and [("--resume" in words) for words in started] == [
        *[False] * 3,
        True,
        True,
        False,
        False,
    ]
    found = json.loads((tmp_path / "s" / "search.json").read_text())
    assert [len(r["scores"]) for r in found["rungs"]] == [3, 2] and found["winner"] in found["rungs"][1]["scores"]
    rows = (tmp_path / "s" / "candidates" / found["winner"] / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(len(rows)))  # one run, gone on with
    assert main([*argv, "--json"]) == 0 and len(started) == 7
    assert json.loads(capsys.readouterr().out)["fresh"] == found["fresh"]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    search, log = search_in(tmp_path / "s"), list[str]()
    rungs = climb(search, trainer(skill, log))
    fresh = measure(search, "lr=3-beta=1", trainer(skill, log))
    path = tmp_path / "search.html"
    path.write_text(render(result(search, rungs, fresh, "temper search <b>")), encoding="utf-8")
    with Browser(find_chromium() or "") as page:
        for width, dark in ((1280, False), (390, True)):
            page.open(path, width=width, dark=dark)
            assert page.js("document.documentElement.scrollWidth") <= width and not page.errors
            assert (
                "no result" in page.js("document.body.innerText")
                and page.js("document.querySelectorAll('b').length") == 2
            )
            assert page.js("document.querySelectorAll('polyline').length") == 6
