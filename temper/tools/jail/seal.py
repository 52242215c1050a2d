"""What a new interpreter does to itself before it reads any code. After `seal` there is no way back."""

from __future__ import annotations

import os
import resource
from typing import Any

from temper.tools.jail import filters, kernel, landlock

CHANNEL = 3  # the only descriptor beside 0, 1 and 2


def descriptors(channel: int, output: int) -> None:
    """Standard input is empty, output and errors go to `output`, the channel is number 3, and nothing else is open."""
    empty = os.open("/dev/null", os.O_RDONLY)
    high = [os.dup(fd) for fd in _above(channel, output, empty)]
    for target, fd in zip((CHANNEL, 1, 0), high, strict=True):
        os.dup2(fd, target)
    os.dup2(1, 2)
    os.closerange(CHANNEL + 1, 1 << 20)


def _above(*fds: int) -> list[int]:
    """Copies whose numbers collide with none of 0 to 3."""
    import fcntl

    return [fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in fds]


def limits(settings: dict[str, Any]) -> None:
    """CPU seconds, memory, size of any file (the output is one), open files; no core dumps."""
    bounds = {
        resource.RLIMIT_CPU: settings["cpu"],
        resource.RLIMIT_AS: settings["memory"],
        resource.RLIMIT_FSIZE: settings["file"],
        resource.RLIMIT_NOFILE: settings["files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))


def program(settings: dict[str, Any], report: dict[str, str]) -> bytes:
    """The filter of system calls that `seal` installs."""
    view, pids = report["files"].startswith("own"), report["processes"].startswith("own")
    return filters.program(threads=settings["threads"], view=view, pids=pids)


def seal(settings: dict[str, Any], report: dict[str, str], scratch: str, calls: bytes) -> None:
    """Everything that the report says is in force; OSError when one of them cannot be had."""
    os.environ.clear()
    limits(settings)
    if report["processes"].startswith("own") or os.geteuid() == 0:
        kernel.drop_capabilities()
    kernel.no_new_privileges()
    if report["landlock"].startswith("version"):
        landlock.restrict(settings["readable"], scratch)
    kernel.filter_calls(calls)
