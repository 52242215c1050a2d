"""A process of our own that answers JSON lines, in any Python environment: bounded, with a deadline for every answer.

    child = Child(Path("worker.py"), python="/opt/other/bin/python")      # worker.py defines answer(message)
    child.ask({"op": "add"}, seconds=5.0)
    child.close()

It sees no environment variables of this process and works in an empty directory. `ask` blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from temper.tools.base import Fault

LONGEST = 64 << 20  # bytes of one answer
_LINES = Path(__file__).with_name("lines.py")


class Late(Exception):
    """No answer in time. The process was killed."""


class Ended(Fault):
    """The process ended, or said what is not JSON."""


class Said(Exception):
    """What `answer` raised in the process, as "Type: message"."""


class Child:
    """Started at once; one question at a time.

    file    of the code that answers; python: the interpreter that runs it
    memory  bytes of address space, cpu: seconds in all (0: no limit)
    """

    def __init__(self, file: Path, *, python: str = sys.executable, memory: int = 2 << 30, cpu: int = 0):
        self._folder = tempfile.TemporaryDirectory(prefix="temper-child-", ignore_cleanup_errors=True)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        home = self._folder.name
        self._lock = threading.Lock()
        self._rest = b""
        try:
            self.process = subprocess.Popen(
                [python, "-I", str(_LINES), str(file), str(memory), str(cpu)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=home,
                env={
                    "LC_ALL": "C.UTF-8",
                    "OMP_NUM_THREADS": "1",
                    "HOME": self._folder.name,
                    "TMPDIR": self._folder.name,
                },
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            self._folder.cleanup()
            raise Fault(f"cannot start {python}: {error}") from None
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, message: Any, seconds: float) -> Any:
        """The answer. Late, Ended or Said otherwise."""
        try:
            asked = json.dumps(message).encode() + b"\n"
        except RecursionError:
            raise Said("RecursionError: the question is nested too deep") from None
        with self._lock:
            until = time.monotonic() + seconds
            try:
                self._write(asked, until)
                reply = json.loads(self._line(until))
            except (OSError, ValueError) as error:
                why = self._why()
                self.close()
                raise Ended(f"the process ended{why}" if isinstance(error, OSError) else "not a JSON line") from None
        if "error" in reply:
            raise Said(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """Kill the process with all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()

    def _write(self, data: bytes, until: float) -> None:
        assert self.process.stdin is not None
        descriptor = self.process.stdin.fileno()
        while data:
            self._wait(descriptor, select.POLLOUT, until)
            data = data[os.write(descriptor, data[:65536]) :]

    def _line(self, until: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        parts = [self._rest]
        size = 0
        while b"\n" not in parts[-1]:
            self._wait(descriptor, select.POLLIN, until)
            parts.append(os.read(descriptor, 1 << 20))
            size += len(parts[-1])
            if not parts[-1]:
                raise OSError("end of file")
            if size > LONGEST:
                raise ValueError("the answer is too long")
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line

    def _wait(self, descriptor: int, what: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, what)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            self.close()
            raise Late

    def _why(self) -> str:
        """What it said last on standard error."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            return f": {said[-1][:300]}" if said else ""
        return ""
