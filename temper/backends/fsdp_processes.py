"""Ranks as processes of this machine, started by the run that they train for.

Messages travel through socket pairs that nobody else can open; the ranks find one another through a file, and talk
over the loopback interface. A rank ends when its run does, however that ends. Every wait has a deadline, and a rank
that dies is named.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import nn

from temper.backends import fsdp_wire
from temper.errors import UserError

DOING = {
    "open": "opening the model", "advance": "computing an update", "pieces": "reading", "gathered": "gathering weights",
    "load": "taking weights", "save": "writing a checkpoint", "restore": "reading a checkpoint",
}  # fmt: skip
SAME = {c.__name__: c for c in (UserError, OSError, ValueError, KeyError, TypeError, NotImplementedError)}
GRACE = 1.0  # seconds in which a death that made another rank fail comes to light
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_BOOT = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from temper.backends.fsdp_serve import serve
serve(*sys.argv[2:])"""


class Processes:
    """`world` ranks.

    name     of the policy that they train, for messages
    timeout  seconds that any of them may take to answer
    """

    def __init__(self, world: int, timeout: float = 600.0, name: str = "policy"):
        self.world, self.timeout, self.name = world, timeout, name
        self.folder = Path(tempfile.mkdtemp(prefix="temper-ranks-"))
        self.failure: UserError | None = None
        self.ends: list[Connection] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank in range(world):
            self._start(rank)

    def _start(self, rank: int) -> None:
        mine, theirs = socket.socketpair()
        for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            mine.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", int(self.timeout) + 1, 0))
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
        threads = max(1, torch.get_num_threads() // self.world)
        given = [theirs.fileno(), rank, self.world, self.folder / "store", self.timeout, threads, os.getpid()]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), *map(str, given)],
                pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.ends.append(Connection(mine.detach()))
        self.processes.append(process)

    # asking --------------------------------------------------------------------------------------------------------

    def call(self, method: str, *args: Any, modules: Sequence[nn.Module] = ()) -> list[Any]:
        """Each rank's result. UserError names a rank that died, failed or took too long; then all are ended."""
        self._send(method, args, modules)
        results: dict[int, Any] = {}
        for rank, kind, content in self._answers(method):
            if kind == "done":
                results[rank] = content
        return [results[rank] for rank in range(self.world)]

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        """What rank 0 gives, one after another; all of it must be taken."""
        self._send(method, args, ())
        for _, kind, content in self._answers(method):
            if kind == "item":
                yield content

    def _send(self, method: str, args: tuple[Any, ...], modules: Sequence[nn.Module]) -> None:
        if self.failure is not None:
            raise self.failure
        message = fsdp_wire.dumps((method, args), modules)
        for rank, end in enumerate(self.ends):
            with self._watched(rank, method):
                end.send_bytes(message)

    def _answers(self, method: str) -> Iterator[tuple[int, str, Any]]:
        """(rank, "item" or "done", content) as they come, until all are done."""
        waiting = dict(enumerate(self.ends))
        deadline = time.monotonic() + self.timeout
        while waiting:
            ready = wait(list(waiting.values()), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self._fail(f"{_ranks(waiting)} gave no answer within {self.timeout:g} s", method)
            for rank in [r for r, end in waiting.items() if end in ready]:
                with self._watched(rank, method):
                    kind, content = fsdp_wire.loads(self.ends[rank].recv_bytes())
                if kind == "failed":
                    self._failed(rank, method, *content)
                deadline = time.monotonic() + self.timeout
                if kind == "done":
                    del waiting[rank]
                yield rank, kind, content

    # what goes wrong -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _watched(self, rank: int, method: str) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            self._fail(f"rank {rank} stopped in the middle of a message for {self.timeout:g} s", method)
        except (EOFError, OSError):
            self._fail(f"rank {rank} died ({self._manner(rank)})", method)

    def _failed(self, rank: int, method: str, kind: str, text: str, trace: str) -> None:
        """A rank's own error; where another one died meanwhile, that was the cause."""
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            for other, process in enumerate(self.processes):
                if process.poll() is not None:
                    self._fail(f"rank {other} died ({self._manner(other)})", method)
            time.sleep(0.02)
        self.failure = self._error(f"rank {rank} failed ({text})", method)
        self.close()
        error = SAME.get(kind, RuntimeError)(text if kind in SAME else str(self.failure))
        error.add_note(trace)
        raise error

    def _fail(self, what: str, method: str) -> None:
        self.failure = self._error(what, method)
        self.close()
        raise self.failure

    def _error(self, what: str, method: str) -> UserError:
        doing = DOING.get(method, method)
        return UserError(f"the learner of {self.name!r}: {what} while {doing}; --resume goes on from a checkpoint")

    def _manner(self, rank: int) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.processes[rank].wait(1.0)
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return "its end of the connection is closed"

    def close(self) -> None:
        """End all ranks."""
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.failure = self.failure or UserError(f"the learner of {self.name!r} is closed")


def _ranks(waiting: dict[int, Any]) -> str:
    return f"rank{'s' if len(waiting) > 1 else ''} {', '.join(map(str, waiting))}"
