from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from temper.errors import UserError
from temper.tools.base import Result
from temper.tools.python import Python
from temper.tools.sandbox import Limits

SECONDS = 0.5


def processes(root: str) -> int:
    """How many processes there are of the fork server whose directory is `root`."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            count += root.encode() in (entry / "cmdline").read_bytes()
        except OSError:
            continue
    return count


@pytest.fixture(scope="module")
def python() -> Iterator[Python]:
    yield from sandboxed("whatever there is")


def sandboxed(kind: str) -> Iterator[Python]:
    """A tool; skips where the kernel does not give what `kind` asks for."""
    tool = Python(seconds=SECONDS, limits=Limits(cpu=3, memory=256 << 20, file=4 << 20, scratch=8 << 20))
    try:
        tool.server.interpreter().close()
    except UserError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    if kind == "namespaces" and not tool.server.report["files"].startswith("own"):
        tool.close()
        pytest.skip(f"no namespaces on this machine: {tool.server.report}")
    yield tool
    tool.close()


@pytest.fixture
def run(python: Python) -> Callable[[str], Result]:
    return lambda code: asyncio.run(python(code))
