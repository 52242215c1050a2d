"""docs/cluster/ray.slurm, run by bash with stand-ins for Slurm, Ray and Temper."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs/cluster/ray.slurm"
STANDINS = {
    "srun": 'while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done; exec "$@"',
    "scontrol": '[[ $1 == show ]] && printf "one\\ntwo\\n" || echo "$*" >> "$LOG"',
    "hostname": "echo 10.0.0.1",
    "sleep": ":",
    "ray": 'exec "$PAUSE" 60',
    "temper": """echo "temper $*" >> "$LOG"
        while [[ $1 != --out ]]; do shift; done
        mkdir -p "$2"; touch "$2/run.json"; exec "$PAUSE" "$SECONDS_OF_A_RUN"
    """,
}

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="bash is needed")


def job(folder: Path, seconds: int, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """The script, as Slurm would start it on two nodes with eight GPUs each."""
    for name, text in STANDINS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    given = {
        "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log"), "SHARED": str(folder / "shared"),
        "PAUSE": shutil.which("sleep") or "", "SECONDS_OF_A_RUN": str(seconds), "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "x", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "64",
        **environment,
    }  # fmt: skip
    return subprocess.Popen(["bash", str(SCRIPT), *words], env=given, stdout=subprocess.DEVNULL)


def logged(folder: Path, lines: int) -> list[str]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (folder / "log").exists() and len(found := (folder / "log").read_text().splitlines()) >= lines:
            return found
        time.sleep(0.05)
    raise AssertionError("nothing was logged within 30 s")


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    first = job(tmp_path, 60, "grpo", "--beta", "0.01")
    [begun] = logged(tmp_path, 1)
    assert begun == (
        "temper run grpo --backend ray --address 10.0.0.1:20077 --learners 8 --samplers 7 --environments 8 "
        f"--reward-actors 4 --beta 0.01 --out {tmp_path}/shared/runs/77"
    )
    first.send_signal(signal.SIGUSR1)  # Slurm, 120 s before the limit
    first.wait(30)
    assert logged(tmp_path, 2)[1] == "requeue 77"
    assert list((tmp_path / "shared/keys").iterdir()) == []
    assert job(tmp_path, 0, "grpo", "--beta", "0.01").wait(30) == 0
    assert logged(tmp_path, 3)[2] == f"{begun} --resume"
    assert job(tmp_path, 0, "grpo", NAME="other", FROZEN="0").wait(30) == 0
    assert "--samplers 8 " in logged(tmp_path, 4)[3] and logged(tmp_path, 4)[3].endswith("/shared/runs/other")


def test_a_run_that_fails_is_not_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STANDINS, "temper", 'echo "failed $1" >> "$LOG"; exit 2')
    assert job(tmp_path, 0, "grpo").wait(30) == 2
    assert logged(tmp_path, 1) == ["failed run"]
