"""The file system that a policy's code sees: the interpreter and its libraries, read-only, and an empty directory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from temper.tools.jail import kernel

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def build(root: str, readable: Sequence[str], hidden: Sequence[str]) -> None:
    """Mount it on `root` (an empty directory) and make it this process's root directory.

    readable  paths to show; hidden  directories within them that are shown empty
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    covers = []
    for path in sorted({*readable, *hidden}, key=len):  # what contains others first
        if path not in hidden:
            _show(root, path)
        elif os.path.isdir(root + path):
            kernel.mount("tmpfs", root + path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
            covers.append(root + path)
    for path in covers:
        kernel.read_only(path, recursive=False)
    for path in DEVICES:
        _show(root, path, devices=True)
    os.makedirs(root + scratch(readable), exist_ok=True)
    kernel.pivot(root)
    kernel.read_only("/", recursive=False)


def scratch(readable: Sequence[str]) -> str:
    """Where an interpreter has its own directory: /tmp, unless something that is to be seen is in there."""
    return "/scratch" if any(path.startswith("/tmp/") for path in readable) else "/tmp"


def _show(root: str, path: str, *, devices: bool = False) -> None:
    target = root + path
    if os.path.lexists(target) or not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        return os.symlink(os.readlink(path), target)
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(path, target, flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.read_only(target, devices=devices)
