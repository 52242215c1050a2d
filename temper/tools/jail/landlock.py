"""Landlock: a process gives up every file but those beneath the paths named. Needs no rights; Linux ≥ 5.13."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from temper.tools.jail import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_WRITE, _READ, _LIST, _TRUNCATE, _IOCTL = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_RIGHTS = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 4: 1 << 15}  # version: number of file rights, as a bit; later 1 << 16
_NOT_IN_SCRATCH = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 11 | _IOCTL  # execute, devices, sockets


def version() -> int:
    """0 where the kernel has none."""
    try:
        return kernel.syscall(_CREATE, 0, 0, 1)
    except OSError:
        return 0


def restrict(readable: Sequence[str], scratch: str) -> None:
    """From now on: read beneath `readable`, write beneath `scratch`, no TCP, no signals to others."""
    known = version()
    every = _RIGHTS.get(known, 1 << 16) - 1
    attributes = struct.pack("<QQQ", every, 3, 3)[: 8 if known < 4 else 16 if known < 6 else 24]
    rules = kernel.syscall(_CREATE, attributes, len(attributes), 0)
    for path in readable:
        _allow(rules, path, _READ | _LIST if os.path.isdir(path) else _READ)
    _allow(rules, "/dev/null", _READ | _WRITE)
    _allow(rules, scratch, every & ~_NOT_IN_SCRATCH)
    kernel.syscall(_RESTRICT, rules, 0)
    os.close(rules)


def without(paths: Sequence[str], hidden: Sequence[str]) -> list[str]:
    """Paths that cover `paths` but nothing beneath `hidden`. Links are left out: what they name is there itself."""
    found: list[str] = []
    for path in paths:
        if path in hidden or os.path.islink(path) or not os.path.exists(path):
            continue
        if any(h.startswith(f"{path}/") and os.path.isdir(h) for h in hidden):
            found += without([f"{path}/{name}" for name in os.listdir(path)], hidden)
        else:
            found.append(path)
    return found


def _allow(rules: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    kernel.syscall(_ADD, rules, 1, struct.pack("<Qi", rights, fd), 0)
    os.close(fd)
