"""Interpreters for code that nobody trusts, made by a fork server (see `jail`) and used from asyncio.

Threat model. The code is hostile: it may do whatever Python and machine code in its process can. It gets no file of the
run, no environment, no network, no other process, and bounded time, memory and output. It may lie about itself: it can
print anything and can make its own call count as "ok" (as `try: …  except: pass` does), because whoever owns an
interpreter owns what it reports. It cannot touch a call of another interpreter, nor anything after its own end. Never
judge an answer in the interpreter that ran it: have it print, and judge what it printed outside.

Not covered: bugs of the kernel itself, side channels (timing, caches), and, where the kernel gives no mount namespace
(`isolation()` says so), the names of files and the disk space that one call can fill. Whoever needs more
runs Temper in a virtual machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from site import getsitepackages
from typing import Any, NamedTuple

from temper.errors import UserError
from temper.tools.base import Fault, Outcome

START_SECONDS = 60.0  # for the fork server's imports, and for an interpreter on a busy machine
OUTPUT_BYTES = 16_000  # of the head, and of the tail, that are ever read
NAMESPACES = True  # False leaves the rest: Landlock, seccomp and limits
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from temper.tools.jail.keeper import main; main()"
_ENVIRONMENT = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}  # the fork server's; code sees none


@dataclass(frozen=True)
class Limits:
    """Of one interpreter.

    cpu       seconds of its whole life
    memory    bytes of address space
    file      bytes of the largest file, its output included
    scratch   bytes of all its files
    files     open files
    threads   may it start threads (it can never start processes)
    """

    cpu: int = 30
    memory: int = 512 << 20
    file: int = 16 << 20
    scratch: int = 32 << 20
    files: int = 64
    threads: bool = False


class Answer(NamedTuple):
    """What came of a piece of code. `alive`: the interpreter can take another."""

    output: str
    outcome: Outcome
    alive: bool


class Interpreter:
    """One process. `run` is called by one task at a time."""

    def __init__(self, server: Server, number: int, channel: socket.socket, output: int):
        self.server, self.number, self.channel, self.output = server, number, channel, output
        self.process = server.process
        self.ready = False
        self.closed = False

    async def run(self, code: str, seconds: float) -> Answer:
        """Fault when the process failed before it was given the code, or its server ended."""
        await self._begin()
        nonce, body = secrets.token_bytes(16), code.encode("utf-8", "replace")
        os.ftruncate(self.output, 0)
        try:
            reply = await asyncio.wait_for(self._exchange(nonce + struct.pack("<I", len(body)) + body), seconds)
        except TimeoutError:
            self.close()
            return Answer(self._read(), "timeout", False)
        except BaseException:  # cancelled
            self.close()
            raise
        text = self._read()
        if len(reply) != 17 or reply[:16] != nonce:
            self.close()
            await asyncio.sleep(0.02)  # if the server ended, that is visible now
            if self.process is None or self.process.poll() is not None:
                raise Fault("the fork server ended")
            return Answer(text, "tool error", False)
        return Answer(text, "ok" if reply[16] == 0 else "tool error", True)

    async def _begin(self) -> None:
        """Wait for the process; bytes that were written before they were asked for end it."""
        if self.closed:
            raise Fault("the interpreter is closed")
        if not self.ready:
            with contextlib.suppress(OSError, TimeoutError):
                loop = asyncio.get_running_loop()
                self.ready = await asyncio.wait_for(loop.sock_recv(self.channel, 1), START_SECONDS) == b"R"
            if not self.ready:
                self.close()
                raise Fault("an interpreter could not be started")

    async def _exchange(self, frame: bytes) -> bytes:
        """The reply; shorter than 17 bytes when the process ended. A reply that was there before counts as an end."""
        loop, reply = asyncio.get_running_loop(), b""
        try:
            with contextlib.suppress(BlockingIOError):
                self.channel.recv(1)
                return b""
            await loop.sock_sendall(self.channel, frame)
            while len(reply) < 17 and (part := await loop.sock_recv(self.channel, 17 - len(reply))):
                reply += part
        except OSError:
            return b""
        return reply

    def _read(self) -> str:
        """Head and tail of the output: never more, whatever was printed."""
        size = os.fstat(self.output).st_size
        if size <= 2 * OUTPUT_BYTES:
            return os.pread(self.output, size, 0).decode("utf-8", "replace")
        head, tail = (os.pread(self.output, OUTPUT_BYTES, at) for at in (0, size - OUTPUT_BYTES))
        os.ftruncate(self.output, 0)  # gives the memory back
        missing = f"\n[… {size - 2 * OUTPUT_BYTES} bytes left out …]\n"
        return head.decode("utf-8", "replace") + missing + tail.decode("utf-8", "replace")

    def close(self) -> None:
        """Kill the process. The output can still be read until the object is gone."""
        if not self.closed:
            self.closed = True
            self.server.kill(self.number)
            self.channel.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
            os.close(self.output)


class Server:
    """The fork server's side that the run sees: `interpreter()` makes one, spares are kept ready."""

    def __init__(self, limits: Limits, *, packages: tuple[str, ...] = (), echo: bool = True, spares: int = 2):
        self.limits, self.packages, self.echo, self.spares = limits, packages, echo, spares
        self.report: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._root = ""
        self._count = 0
        self._ready: deque[Interpreter] = deque()
        self._end: Callable[[], object] = lambda: None  # what is still to be done; also done when the program ends

    def interpreter(self) -> Interpreter:
        """A new one, or a spare one that has run nothing yet. Blocks only while the server starts."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            self._start()
        one = self._ready.popleft() if self._ready else self._make()
        while len(self._ready) < self.spares:
            self._ready.append(self._make())
        return one

    def kill(self, number: int) -> None:
        """End an interpreter, if the server that made it is still there."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(b"-%d" % number)

    def close(self) -> None:
        """End every interpreter and the server. It starts again when it is needed."""
        self.process = self._control = None
        self._ready.clear()
        self._end()

    def _make(self) -> Interpreter:
        assert self._control is not None
        self._count += 1
        try:
            with contextlib.ExitStack() as failed:
                ours, theirs = socket.socketpair()
                failed.callback(ours.close)
                with theirs:
                    ours.setblocking(False)
                    output = os.memfd_create("output")
                    failed.callback(os.close, output)
                    _append_only(output)
                    socket.send_fds(self._control, [b"+%d" % self._count], [theirs.fileno(), output])
                failed.pop_all()
        except OSError as error:  # too many open files, or the server has ended
            raise Fault(f"no interpreter can be made: {error}") from None
        return Interpreter(self, self._count, ours, output)

    def _start(self) -> None:
        if sys.platform != "linux":
            raise UserError("the Python tool needs Linux: nothing else isolates a process well enough")
        _allow_files()
        settings = self._settings()
        self._root = tempfile.mkdtemp(prefix="temper-jail-")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = json.dumps({**settings, "control": theirs.fileno(), "root": self._root})
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(Path(__file__).parents[2]), given]
        self.process = subprocess.Popen(
            command,
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        self._end = weakref.finalize(self, _end, self.process, self._control, self._root)
        self._await_report()

    def _await_report(self) -> None:
        assert self._control is not None and self.process is not None and self.process.stderr is not None
        self._control.settimeout(START_SECONDS)
        try:
            data = self._control.recv(65536)
        except OSError:
            data = b""
        if not data:
            os.killpg(self.process.pid, signal.SIGKILL)
            said = self.process.stderr.read(4000).decode("utf-8", "replace").strip().splitlines()
            self.close()
            raise UserError(f"the fork server of the Python tool did not start: {said[-1] if said else 'no reason'}")
        self.process.stderr.close()
        self.report = json.loads(data)
        if not self.report["files"].startswith("own") and self.report["landlock"] == "none":
            self.close()
            raise UserError(f"this machine cannot hide the run's files from a process: {self.report}")

    def _settings(self) -> dict[str, Any]:
        standard = os.path.realpath(sysconfig.get_path("stdlib"))
        shown = [p for name in self.packages for p in _package(name)]
        from temper.tools.jail.view import LIBRARIES

        libraries = {p for path in LIBRARIES if os.path.exists(path) for p in (path, os.path.realpath(path))}
        site = {os.path.realpath(sysconfig.get_path("purelib", vars={"base": sys.base_prefix}))}
        site |= {os.path.realpath(p) for p in getsitepackages()}
        site |= {f"{standard}/site-packages", f"{standard}/dist-packages", "/usr/lib/python3/dist-packages"}
        return {
            "readable": sorted({standard, *libraries, *shown}),
            "hidden": sorted(site),
            "path": [standard, f"{standard}/lib-dynload", *sorted({os.path.dirname(p) for p in shown})],
            "packages": list(self.packages),
            "echo": self.echo,
            "namespaces": NAMESPACES,
            **asdict(self.limits),
        }


def isolation() -> dict[str, str]:
    """What is in force on this machine, for `temper doctor`: {"processes": …, "network": …, "files": …, …}."""
    server = Server(Limits(), spares=0)
    try:
        server.interpreter().close()
        return server.report
    except (UserError, Fault) as error:
        return {"unusable": str(error)}
    finally:
        server.close()


def _package(name: str) -> list[str]:
    """The paths of an importable package, with the libraries that its wheel brings."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"the Python tool is to offer the package {name}, which is not installed")
    found = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    bundled = found.parent / f"{name}.libs"
    return [os.path.realpath(p) for p in (found, bundled) if p.exists()]


def _end(process: subprocess.Popen[bytes], control: socket.socket, root: str) -> None:
    """The server goes when its control socket is closed, and every interpreter with it."""
    control.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(root, ignore_errors=True)


def _allow_files() -> None:
    """As many open files as this process may have: an interpreter takes two, and 1,000 episodes may have one each."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _append_only(output: int) -> None:
    import fcntl

    fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)
