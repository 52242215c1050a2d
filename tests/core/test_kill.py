"""Kill -9 anywhere, resume, and the run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from temper.errors import UserError
from temper.loop import train
from tests.core.busy import busy, outcome
from tests.core.child import PHASES

# Kills are drawn from so many moments of a phase after each start, about five steps' worth ("clock": seconds);
# a run that ends before its moment halves the bound, whatever the speed of the machine.
MOMENTS = {"rollout": 120, "reward": 24, "update": 80, "publish": 8, "evaluation": 40, "report": 16, "checkpoint": 120,
           "clock": 1.0}  # fmt: skip


class Children:
    """Runs in forks of a warm process."""

    def __init__(self, model: str):
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.core.child", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def run(self, out: Path, **job: Any) -> dict[str, Any]:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps({"resume": False, **job, "out": str(out)}) + "\n")
        self.server.stdin.flush()
        answer: dict[str, Any] = json.loads(self.server.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def children(toy_model: str) -> Iterator[Children]:
    made = Children(toy_model)
    yield made
    made.server.kill()
    made.server.wait()


@pytest.fixture(scope="module")
def whole(children: Children, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert children.run(folder)["exit"] == 0
    return folder


def compare(folder: Path, whole: Path) -> None:
    mine, theirs = outcome(folder), outcome(whole)
    assert mine["metrics"] == theirs["metrics"]
    for part in theirs:
        assert mine[part] == theirs[part], part


def latest(folder: Path) -> str:
    link = folder / "checkpoints" / "latest"
    return link.resolve().name if link.is_symlink() else ""


def test_killed_at_twenty_moments(children: Children, whole: Path, tmp_path: Path) -> None:
    """A run is killed and resumed until it ends; then another, until there were twenty kills, some in every phase."""
    draw = random.Random(0)
    phases = [p for p in PHASES for _ in range(2)] + ["checkpoint"] * 4 + ["clock"] * 2
    draw.shuffle(phases)
    bounds = dict(MOMENTS)
    kills: Counter[str] = Counter()
    places: set[str] = set()  # checkpoints that were resumed from
    runs = 0
    while phases:
        folder, ended = tmp_path / f"run{runs}", False
        while not ended:
            phase = phases.pop() if phases else ""
            how: dict[str, Any] = {}
            if phase == "clock":
                how = {"after": draw.uniform(0.05, bounds[phase])}
            elif phase:
                how = {"kill": [phase, draw.randrange(round(bounds[phase]))]}
            answer = children.run(folder, resume=True, **how)
            ended = answer["signal"] == 0
            assert not ended or answer["exit"] == 0, answer
            if not ended:
                assert answer["signal"] == signal.SIGKILL
                kills[phase] += 1
                places.add(latest(folder))
            elif phase:
                phases.insert(0, phase)  # the run was over before that moment
                bounds[phase] = max(bounds[phase] / 2, 0.1 if phase == "clock" else 1)
        compare(folder, whole)
        runs += 1
        assert runs < 20
    print(f"kills: {dict(kills)} in {runs} runs, resumed from {sorted(places)}")
    assert len(places) >= 4 and sum(kills.values()) == 20 and set(kills) >= set(PHASES) and kills["checkpoint"] == 6


@pytest.mark.parametrize("largest", [50_000, 120_000])
def test_a_disk_that_is_full_leaves_the_last_checkpoint(
    children: Children, whole: Path, tmp_path: Path, largest: int
) -> None:
    """No file may grow beyond `largest` bytes (as if the disk were full), while a checkpoint is written."""
    folder = tmp_path / "run"
    assert children.run(folder, kill=["rollout", 150])["signal"] == signal.SIGKILL
    before = latest(folder)
    assert before
    answer = children.run(folder, resume=True, largest=largest)
    assert answer["exit"] == 2 and f"the last good one is {before}" in answer["error"], answer
    assert "cannot write checkpoint step_" in answer["error"] and "\n" not in answer["error"]
    assert latest(folder) == before
    assert not list((folder / "checkpoints").glob(".*partial"))
    assert children.run(folder, resume=True)["exit"] == 0
    compare(folder, whole)


def test_only_so_many_checkpoints_are_kept(whole: Path) -> None:
    kept = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert kept == ["latest", "step_10", "step_12"]
    assert (whole / "checkpoints" / "latest").readlink() == Path("step_12")


def test_a_finished_run_resumes_to_the_same_summary(children: Children, whole: Path, tmp_path: Path) -> None:
    again = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    assert children.run(again, resume=True)["exit"] == 0
    compare(again, whole)


def test_a_directory_with_a_run_is_not_written_over(whole: Path, toy_model: str) -> None:
    before = contents(whole)
    with pytest.raises(UserError, match="holds a run already: continue it with --resume, or choose another --out"):
        asyncio.run(train(busy(toy_model, whole)))
    with (whole / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another run is writing to .*: wait for it, or choose another --out"):
            asyncio.run(train(busy(toy_model, whole, resume=True)))
    assert contents(whole) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
