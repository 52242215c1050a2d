"""Servers of other packages, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def served(command: Callable[[int], Sequence[str]], cwd: Path | None = None) -> Iterator[int]:
    """The port of a server that answers; `command(port)` starts it."""
    port = free_port()
    process = subprocess.Popen(command(port), cwd=cwd, env={**os.environ, "ENABLE_WEB_INTERFACE": "false"})
    try:
        end = time.monotonic() + 60
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server does not start")
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def openenv_template(folder: Path) -> Iterator[int]:
    """The port of the environment that `openenv init` writes, of the package openenv: an echo, 0.1 for each letter."""
    init = [sys.executable, "-m", "openenv.cli", "init", "echo_words", "--output-dir", str(folder)]
    subprocess.run(init, check=True, env={**os.environ, "PATH": ""}, stdout=subprocess.DEVNULL)  # no uv: no downloads
    app = [sys.executable, "-m", "uvicorn", "server.app:app", "--log-level", "error", "--port"]
    with served(lambda port: [*app, str(port)], folder / "echo_words") as port:
        yield port
