"""`temper compare`: what is refused, what is kept, what a failure costs, and the page in a browser."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.cli import main
from temper.cli import run as cli_run
from temper.compare import arms, outcome, runs
from temper.compare.reading import groups, reading
from temper.errors import UserError
from temper.policy import Seat
from tests.compare.conftest import BUDGET, write_run


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


def test_a_run_that_outlived_its_comparison_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the folder of a run, as after kill -9; once it is over the run is done."""
    fake(monkeypatch, "import sys, pathlib as p; p.Path(sys.argv[1], 'summary.json').write_text('{\"mine\": 1}')")
    jobs = runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET)
    for job in jobs:
        job.folder.mkdir(parents=True)
    holds = (
        "import fcntl, sys, time, pathlib as p; f = open(sys.argv[1] + '/.lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
    )
    holds += "print(flush=True); time.sleep(0.6); p.Path(sys.argv[1], 'summary.json').write_text('{}')"
    other = subprocess.Popen([sys.executable, "-c", holds, str(jobs[0].folder)], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"\n"
    said: list[str] = []
    assert runs.train(jobs, 1, said.append) == {} and other.wait(10) == 0
    assert said[0] == "a, seed 0: goes on in another process; waiting for it" and said[1].startswith("b, seed 0: done")
    assert (jobs[0].folder / "summary.json").read_text() == "{}"


def test_words_before_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "import sys, pathlib as p; p.Path(sys.argv[1], 'summary.json').write_text('{}')")
    jobs = runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET)
    for job in jobs:
        job.folder.mkdir(parents=True)
    assert runs.train(jobs, 2, lambda _: None, ["nice", "-n", "1"]) == {} and all(job.done for job in jobs)
    (jobs[0].folder / "summary.json").unlink()
    with pytest.raises(UserError, match="--launch 'no-such-program -n 1' cannot be started"):
        runs.train(jobs, 2, print, ["no-such-program", "-n", "1"])


def test_a_run_with_a_smaller_budget_is_not_done(tmp_path: Path) -> None:
    job = runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET)[0]
    job.folder.mkdir(parents=True)
    for had, done in (({"sampled_tokens": 39.0}, False), ({"sampled_tokens": 40.0}, True), ({}, True)):
        (job.folder / "summary.json").write_text(json.dumps({"budget": had}))
        assert job.done is done


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

    def watched(*a: Any) -> Any:
        started.append(start(*a))
        if len(started) == 2:
            threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT)).start()
        return started[-1]

    monkeypatch.setattr(runs, "_start", watched)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            runs.train(runs.jobs(arms.arms_of(["a: grpo", "b: rloo"]), range(1), tmp_path, BUDGET), 2, print)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(started) == 2 and all(p.poll() is not None for p in started)


def test_what_is_told_apart_and_what_is_not(found: dict[str, Any]) -> None:
    better, other = found["against_first"]
    assert better["arm"] == "better" and better["verdict"] == "better" and better["low"] > 0
    assert other["arm"] == "rloo-attempts-8" and other["verdict"] == "cannot be told apart"
    assert {a["label"]: a["rank"] for a in found["arms"][:3]} == {"better": 1, "grpo": 2, "rloo-attempts-8": 2}
    assert {a["label"]: a["groups"] for a in found["arms"][:3]} == {"better": "a", "grpo": "b", "rloo-attempts-8": "b"}
    assert found["arms"][3]["pass@1"] is None and found["arms"][3]["rank"] is None and found["arms"][3]["groups"] == ""
    said = " ".join(found["reading"])
    assert re.search(r"better beats (grpo|rloo-attempts-8) by 0\.\d+ \[\+0\.\d+, \+0\.\d+\] and", said), said
    assert re.search(r"Between these pairs the runs say nothing: \S+ and \S+\.", said) and "3 pairs were tested" in said
    assert found["notes"][0].startswith("b-bad-worse-b: 0 of 3 runs finished")


def test_curves_by_every_axis_that_was_spent(found: dict[str, Any]) -> None:
    assert list(found["curves"]) == [*("sampled_tokens", "flops", "forward_flops"), "environment_seconds", "steps"]
    by_tokens, by_steps = (found["curves"][axis]["grpo"] for axis in ("sampled_tokens", "steps"))
    assert by_tokens["reward"]["x"][-1] == 100 and by_tokens["pass@1"]["mean"][0] == 0.25
    assert by_steps["reward"]["x"][-1] == 4 and by_steps["reward"]["mean"] == by_tokens["reward"]["mean"]
    assert found["curves"]["flops"]["grpo"]["reward"]["x"][-1] == 7e3


def test_letters_of_arms_that_cannot_be_told_apart() -> None:
    scores = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.5}
    alike = {frozenset(p) for p in ("ab", "bc", "ac", "cd")}
    assert groups(scores, alike) == {"a": "a", "b": "a", "c": "a b", "d": "b"}
    assert groups(scores, set()) == {"a": "a", "b": "b", "c": "c", "d": "d"} and groups({}, set()) == {}


def test_nothing_told_apart_is_no_equality() -> None:
    pair = {"arm": "b", "against": "a", "mean": -0.02, "low": -0.05, "high": 0.01, "verdict": "cannot be told apart"}
    arms = [{"label": n, "pass@1": v, "before": None, "seeds": [0, 1]} for n, v in (("a", 0.5), ("b", 0.48))]
    said = reading({"arms": arms, "pairs": [pair]})
    assert said[0] == "Highest mean pass@1: a, 0.500; the lowest b, 0.480."
    assert (
        said[1].startswith("No arm can be told apart") and "below about 0.030" in said[2] and "one of 0.050" in said[2]
    )


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


METHODS = ("grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "reinforce-plus-plus", "ppo", "raft-plus-plus", "remax")


def test_methods_get_the_same_tasks_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a method does: the k-th request of a seed is the same task, with the same random streams."""
    monkeypatch.chdir(tmp_path)
    seen = {}
    for method, seed in [*((m, 0) for m in METHODS), ("grpo", 1)]:
        asked = cli_run.resolve([method, "--seed", str(seed), "--budget", BUDGET, "--out", "x"])
        (run,), _ = cli_run.build(asked)
        requests = [run.numbered(r) for n in (16, 3, 16) for r in run.curriculum.next(n)]
        seats = [Seat("solver", run.roles["solver"], run.sampling, run.seed, (r.split, r.id, 0)) for r in requests]
        tasks = [(r.task.source, r.task.id, r.task.prompt, r.attempts) for r in requests]
        seen[method, seed] = tasks, [(s._seed, *s._who) for s in seats]
    assert all(seen[method, 0] == seen["grpo", 0] for method in METHODS) and seen["grpo", 0] != seen["grpo", 1]


def small_arms(model: str, *methods: str) -> list[str]:
    options = f"--model {model} --groups 2 --attempts 2 --max-tokens 4 --eval-tasks 4 --eval-attempts 1"
    return [f"{name}: {method} {options}" for name, method in zip("abc", methods)]


def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the comparison and of its run after the first checkpoint; the same command goes on."""
    texts, more = small_arms(toy_model, "grpo", "reinforce"), ["--save-every", "2"]
    argv = [
        "compare",
        *texts,
        "--seeds",
        "1",
        "--budget",
        "300-sampled-tokens",
        "--out",
        str(tmp_path / "c"),
        "--",
        *more,
    ]
    first = tmp_path / "c" / "a" / "seed-0"
    comparing = subprocess.Popen([sys.executable, "-m", "temper", *argv], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not list(first.glob("checkpoints/step_*")) and comparing.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    comparing.kill()
    comparing.wait()
    running = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and str(first).encode() in cmdline(p)]
    for process in running:
        os.kill(process, signal.SIGKILL)
    assert running and not (first / "summary.json").exists()

    def train(todo: list[runs.Job], *_: Any) -> dict[str, str]:
        return {j.name: "" for j in todo if main(j.command()[3:]) != 0}

    monkeypatch.setattr(runs, "train", train)  # in this process: what is resumed is the same
    torch.set_num_threads(1)
    assert main(argv) == 0
    whole = tmp_path / "whole"
    words = arms.arms_of(texts, more)[0].argv(0, "300-sampled-tokens")
    assert main(["run", *words, "--out", str(whole), "--threads", "1"]) == 0
    kept = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (first, whole)]
    assert len(kept[0]) > 10 and [without_clock(r) for r in kept[0]] == [without_clock(r) for r in kept[1]]


def cmdline(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def without_clock(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if not k.startswith(("timing_s/", "perf/"))}


def test_from_the_command_line_to_the_page(toy_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two arms, two processes, real runs; called again, nothing is trained."""
    out = tmp_path / "c"
    argv = ["compare", *small_arms(toy_model, "grpo", "rloo"), "--seeds", "1", "--budget", BUDGET, "--out", str(out)]
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
    again = json.loads(capsys.readouterr().out)
    assert again["arms"] == result["arms"] and time.perf_counter() - began < 10
    assert again["cpu_seconds"] == result["cpu_seconds"] > 1
