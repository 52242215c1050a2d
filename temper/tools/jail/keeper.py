"""The fork server. It imports once, isolates itself, and then makes an interpreter in about a millisecond.

    control    a SEQPACKET socket, from the pool: "+<number>" with two descriptors (channel, output) makes an
               interpreter, "-<number>" kills it; end of file ends the keeper, and with it every interpreter.
               To the pool: one message, the report (JSON).

It holds nothing worth stealing: an empty environment, no file of the run, no other descriptor.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import Any

from temper.tools.jail import cell, kernel, landlock, seal, view

PRELOAD: tuple[str, ...] = (
    "math",
    "cmath",
    "json",
    "re",
    "random",
    "itertools",
    "functools",
    "collections",
    "datetime",
    "fractions",
)
PRELOAD += ("decimal", "statistics", "string", "operator", "heapq", "bisect", "copy", "time", "io", "typing")


def main() -> None:
    """Started by the pool with the settings (JSON) as its only argument."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    report = isolate(settings)
    sys.path[:] = [p for p in settings["path"] if os.path.exists(p)]
    for name in (*PRELOAD, *settings["packages"]):
        importlib.import_module(name)
    os.environ.clear()
    gc.collect()
    gc.freeze()
    control.send(json.dumps(report).encode())
    Keeper(control, settings, report).serve()


def isolate(settings: dict[str, Any]) -> dict[str, str]:
    """Enter what namespaces there are. The process that returns is not the one that called."""
    report = {"processes": "none", "network": "calls refused", "files": "no view of its own"}
    try:
        _namespaces(settings["namespaces"])
    except OSError as error:
        report["processes"] = f"no namespaces ({error.strerror}); new processes and signals refused"
    else:
        _fork_away()
        report |= {"processes": "own namespace; new processes refused", "network": "own namespace; calls refused"}
        report["files"] = _view(settings)
    version = landlock.version()
    report["landlock"] = f"version {version}" if version else "none"
    report["calls"] = "filtered (seccomp)"  # an interpreter that cannot install the filter does not start
    return report


def _namespaces(wanted: bool) -> None:
    if not wanted:
        raise OSError(0, "not wanted")
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWPID)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{file}", "w") as stream:
            stream.write(text)


def _fork_away() -> None:
    """The child is process 1 of the new namespace: when it ends, so does everything in it."""
    pid = os.fork()
    if pid == 0:
        kernel.die_with_parent()
        return
    os.closerange(0, 1 << 20)
    os.waitpid(pid, 0)
    os._exit(0)


def _view(settings: dict[str, Any]) -> str:
    global _pids
    _pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        view.build(settings["root"], settings["readable"], settings["hidden"])
    except OSError as error:
        with contextlib.suppress(OSError):  # where interpreters have their directories then
            size = f"size={16 * settings['scratch']},mode=700"
            kernel.mount("tmpfs", settings["root"], "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
        return f"no view of its own ({error})"
    return "own view: libraries read-only and an empty directory"


_pids = -1  # this process's own namespace, to come back to after each interpreter's


class Keeper:
    """Makes interpreters, kills them, and clears up after them."""

    def __init__(self, control: socket.socket, settings: dict[str, Any], report: dict[str, str]):
        self.control, self.settings, self.report = control, settings, report
        self.children: dict[int, tuple[int, str]] = {}
        self.view = report["files"].startswith("own")
        hidden = () if self.view else settings["hidden"]  # the view has nothing there
        settings["readable"] = landlock.without(settings["readable"], hidden)
        self.program = seal.program(settings, report)

    def serve(self) -> None:
        """Until the pool closes its end."""
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self.control.fileno(), wake], [], [])
            if wake in ready:
                os.read(wake, 4096)
                self._reap()
            if self.control.fileno() in ready and not self._obey():
                break
        for number in list(self.children):
            self._kill(number)
        self._reap(wait=True)
        os._exit(0)

    def _obey(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 64, 2)
        if not message:
            return False
        number = int(message[1:])
        if message[:1] == b"-":
            self._kill(number)
        else:
            with contextlib.suppress(OSError):  # no memory, no more processes: the pool sees its channel closed
                self._make(number, *fds)
        for fd in fds:
            os.close(fd)
        return True

    def _kill(self, number: int) -> None:
        if number in self.children:
            os.kill(self.children[number][0], signal.SIGKILL)

    def _make(self, number: int, channel: int, output: int) -> None:
        scratch = view.scratch(self.settings["readable"]) if self.view else f"{self.settings['root']}/{number}"
        if not self.view:
            os.mkdir(scratch, 0o700)
        if _pids >= 0:
            kernel.setns(_pids, kernel.NEWPID)
            kernel.unshare(kernel.NEWPID)
        pid = os.fork()
        if pid:
            self.children[number] = (pid, scratch)
            return
        try:
            self._become(channel, output, scratch)
        finally:
            os._exit(1)

    def _become(self, channel: int, output: int, scratch: str) -> None:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        kernel.die_with_parent()
        seal.descriptors(channel, output)
        if self.view:
            kernel.unshare(kernel.NEWNS)
            size = f"size={self.settings['scratch']},nr_inodes=2000,mode=700"
            kernel.mount("tmpfs", scratch, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
        os.chdir(scratch)
        for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
            stream = os.fdopen(fd, mode, buffering=1)  # by line: what was printed is there after a deadline, too
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        sys.argv[:] = sys.orig_argv[:] = [""]
        seal.seal(self.settings, self.report, scratch, self.program)
        for name in [n for n in sys.modules if n.partition(".")[0] == "temper"]:
            del sys.modules[name]
        cell.live(self.settings["echo"])

    def _reap(self, wait: bool = False) -> None:
        for number, (pid, scratch) in list(self.children.items()):
            if os.waitpid(pid, 0 if wait else os.WNOHANG)[0]:
                del self.children[number]
                if not self.view:
                    shutil.rmtree(scratch, ignore_errors=True)
