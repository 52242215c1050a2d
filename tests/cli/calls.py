"""The command line as tests call it: in this process where that is enough, as a program where it matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from temper.cli import main

ROOT = Path(__file__).parents[2]
TINY = "temper-tiny-random"


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a user's mistake; fails when there is more, or a traceback."""
        assert self.status == 2, self
        assert self.err.startswith("temper: error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("temper: error: ").strip()


class Temper:
    """Calls the command in this process: `temper("run", "base", "--steps", "1")`."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self.capsys = capsys

    def __call__(self, *argv: str) -> Outcome:
        self.capsys.readouterr()
        status = main(argv)
        return Outcome(status, *self.capsys.readouterr())


def program(*argv: str, cwd: Path, **env: str) -> Outcome:
    """`python -m temper …` as a process of its own, in `cwd`."""
    done = subprocess.run(
        [sys.executable, "-m", "temper", *argv], cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TEMPER_NO_INSTALL": "1", **env},
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)
