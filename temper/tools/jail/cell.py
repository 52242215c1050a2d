"""Runs code in this interpreter until the channel is closed.

    in     nonce (16 bytes), length (4 bytes, little endian), code (UTF-8)
    out    "R" once; then for each: nonce, and one byte, 0 when the code ran to its end, 1 when it raised

Output and tracebacks go to the file that is standard output: nothing else that code makes is ever read.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import os
import struct
import sys
import traceback
from typing import Any

from temper.tools.jail.seal import CHANNEL


def live(echo: bool) -> None:
    """One piece of code after another, all in one namespace."""
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    os.write(CHANNEL, b"R")
    count = 0
    while head := _exactly(20):
        source = _exactly(struct.unpack("<I", head[16:])[0])
        count += 1
        failed = not run(source.decode("utf-8", "replace"), space, f"<cell {count}>", echo)
        os.write(CHANNEL, head[:16] + bytes([failed]))


def run(source: str, space: dict[str, Any], name: str, echo: bool) -> bool:
    """True when it ran to its end. What it raised is printed as an interpreter would."""
    good = False
    try:
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        _execute(source, space, name, echo)
        good = True
    except SystemExit as error:
        good = error.code in (None, 0)
        if not good:
            _explain(error)
    except BaseException as error:
        _explain(error)
    return _flush() and good


def _execute(source: str, space: dict[str, Any], name: str, echo: bool) -> None:
    tree = ast.parse(source, name)
    last = tree.body[-1] if echo and tree.body else None
    if not isinstance(last, ast.Expr):
        return exec(compile(tree, name, "exec"), space)
    del tree.body[-1]
    exec(compile(tree, name, "exec"), space)
    value = eval(compile(ast.Expression(last.value), name, "eval"), space)
    if value is not None:
        print(repr(value))


def _explain(error: BaseException) -> None:
    """The traceback, from the code's own first line."""
    try:
        error.__traceback__ = _own(error.__traceback__)
        _flush()
        text = "".join(traceback.format_exception(error, limit=-8))
    except BaseException:
        text = f"{type(error).__name__}\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "replace"))


def _own(trace: Any) -> Any:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _flush() -> bool:
    try:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
    except BaseException:  # the output is full, or the code closed it
        return False
    return True


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(CHANNEL, size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data
