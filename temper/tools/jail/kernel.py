"""System calls without a wrapper in the standard library. Every function raises OSError when the kernel says no."""

from __future__ import annotations

import ctypes
import os
import struct

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 0x1000, 0x4000, 0x40000, 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _AT_FDCWD, _AT_RECURSIVE = 1, 2, 4, -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_MOUNT_SETATTR = 442  # the same number everywhere, like every call since Linux 5.1
_NUMBERS = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}
_libc = ctypes.CDLL(None, use_errno=True)


def number(name: str) -> int:
    """Of a system call on this machine. OSError on an architecture that is not known here."""
    try:
        return _NUMBERS[os.uname().machine][name]
    except KeyError:
        raise OSError(f"architecture {os.uname().machine} is not supported") from None


def checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def syscall(nr: int, *arguments: object) -> int:
    """Integers are passed as 64 bits, bytes and ctypes objects as pointers."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(_libc.syscall(ctypes.c_long(nr), *passed))


def unshare(flags: int) -> None:
    checked(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    checked(_libc.setns(fd, kind))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    texts = [t.encode() if t else None for t in (source, target, kind)]
    checked(_libc.mount(*texts, ctypes.c_ulong(flags), data.encode() if data else None))


def read_only(path: str, *, recursive: bool = True, devices: bool = False) -> None:
    """Of a mount: no writes, no set-user-id programs and, unless `devices`, no device files."""
    attributes = struct.pack("<QQQQ", _ATTR_RDONLY | _ATTR_NOSUID | (0 if devices else _ATTR_NODEV), 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes))


def pivot(root: str) -> None:
    """Make `root` (a mount) the root directory; the old one is gone."""
    os.chdir(root)
    syscall(number("pivot_root"), b".", b".")
    checked(_libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def die_with_parent() -> None:
    checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0))


def no_new_privileges() -> None:
    """Nothing that is executed gains rights; the memory is closed to processes of the same user."""
    checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def drop_capabilities() -> None:
    header = struct.pack("<Ii", 0x20080522, 0)
    syscall(number("capset"), header, struct.pack("<6I", 0, 0, 0, 0, 0, 0))


def filter_calls(program: bytes) -> None:
    """Install a seccomp program (of 8-byte instructions)."""
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    argument = Program(len(program) // 8, ctypes.addressof(buffer))
    checked(_libc.prctl(22, 2, ctypes.byref(argument), 0, 0))
