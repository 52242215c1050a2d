"""Every arm with every seed as a run of its own, in a process with one thread; finished ones are kept."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper.compare.arms import Arm
from temper.errors import UserError
from temper.ledger import budget_of

ENDING = 30.0  # seconds that a run has to stop in, once it is told to


@dataclass(frozen=True)
class Job:
    """One run: it is done when it has spent its budget, or ended by itself before."""

    arm: Arm
    seed: int
    folder: Path
    budget: str

    @property
    def name(self) -> str:
        return f"{self.arm.label}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def done(self) -> bool:
        try:
            had = json.loads((self.folder / "summary.json").read_text()).get("budget", {})
        except (OSError, ValueError, AttributeError):
            return (self.folder / "summary.json").is_file()  # damaged: what reads it says so
        return all(had.get(axis, most) >= most for axis, most in budget_of(self.budget).items())

    @property
    def elsewhere(self) -> bool:
        """Whether another process is at it: a run outlives a comparison that was killed."""
        lock = self.folder / ".lock"
        if not lock.is_file():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def command(self) -> list[str]:
        words = [*self.arm.argv(self.seed, self.budget), "--out", str(self.folder), "--threads", "1"]
        begun = (self.folder / "run.json").is_file() or (self.folder / "checkpoints").exists()
        return [sys.executable, "-m", "temper", "run", *words, *(["--resume"] if begun else [])]


def jobs(arms: Sequence[Arm], seeds: Iterable[int], out: Path, budget: str) -> list[Job]:
    """Seed by seed, so that an interrupted comparison has whole pairs."""
    return [Job(arm, seed, out / arm.label / f"seed-{seed}", budget) for seed in seeds for arm in arms]


def claim(arms: Sequence[Arm], budget: str, out: Path) -> None:
    """Note what is compared in `out`; UserError when it holds another comparison."""
    plan = {"budget": budget, "arms": {a.label: list(a.words) for a in arms}}
    path = out / "plan.json"
    try:
        before = json.loads(path.read_text()) if path.is_file() else plan
        changed = [a for a in plan["arms"] if a in before["arms"] and before["arms"][a] != plan["arms"][a]]  # type: ignore[index]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): choose another --out")
    if before["budget"] != budget:
        raise UserError(f"{out} holds runs of {before['budget']}, not {budget}: choose another --out")
    if changed:
        raise UserError(f"{out} holds arm {changed[0]!r} with other options: name it anew, or choose another --out")
    plan["arms"] = {**before["arms"], **plan["arms"]}  # type: ignore[dict-item]
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plan, indent=1))
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another --out")


def train(todo: Sequence[Job], at_once: int, say: Callable[[str], None], launch: Sequence[str] = ()) -> dict[str, str]:
    """Run what is not done, `at_once` at a time; {job: why it failed}. Stopped, the children stop too.

    launch  words before every run's command (`srun -n 1`)
    """
    waiting = [job for job in todo if not job.done]
    total, failed = len(waiting), dict[str, str]()
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    if total < len(todo):
        say(f"{len(todo) - total} of {len(todo)} runs are finished already")
    for job in (j for j in waiting if j.elsewhere):
        say(f"{job.name}: goes on in another process; waiting for it")
    try:
        while waiting or running:
            for job in [j for j in waiting if not j.elsewhere][: at_once - len(running)]:
                waiting.remove(job)
                if not job.done:
                    running[_start(job, launch)] = job, time.monotonic()
            time.sleep(0.1)
            for process in [p for p in running if p.poll() is not None]:
                job, began = running.pop(process)
                if process.returncode or not job.done:
                    failed[job.name] = reason(job, process.returncode)
                left = len(waiting) + len(running)
                what = f"failed: {failed[job.name]}" if job.name in failed else "done"
                say(f"{job.name}: {what}  ({time.monotonic() - began:.0f} s, {total - left} of {total})")
    finally:
        _stop(list(running))
    return failed


def reason(job: Job, status: int) -> str:
    """The last line of a failed run's log that says something."""
    lines = [line.strip() for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("temper: error: ") for line in lines if line.startswith("temper: error: ")]
    said = (errors or lines or [""])[-1]
    return (f"killed by signal {-status}; " if status < 0 else "") + f"{said} (log: {job.log})"


def _start(job: Job, launch: Sequence[str]) -> subprocess.Popen[bytes]:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with job.log.open("wb") as log:
        try:
            return subprocess.Popen(
                [*launch, *job.command()], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **one}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"--launch {shlex.join(launch)!r} cannot be started ({error.strerror})")


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + ENDING
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()
