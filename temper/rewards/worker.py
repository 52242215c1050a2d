"""The child process that runs reward functions. It imports nothing heavy unless a function does.

Its standard input carries frames from the pool, its standard output carries frames back; the functions themselves see
an empty input and an output that is thrown away. A frame is an 8-byte length and a pickle.

    in    {"path", "parent", "modules", "functions", "prepare", "timeout"} once, then lists of calls
    out   ("ready", None) or ("failed", why) once; for each list ("taken", None) or ("refused", why), and after the
          former (number, [Verdict, …]) as each call ends
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import os
import pickle
import select
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from temper.rewards.verdict import Notes, Verdict, failure, read_many, read_one

HEADER = struct.Struct("<Q")
READY, FAILED, TAKEN, REFUSED = "ready", "failed", "taken", "refused"
INSIDE = False  # True in a worker: a pool must not be built there
Function = Callable[..., Any]


class Call(NamedTuple):
    """One call of function number `function`; `rows` trajectories are judged by it, as a list when `many`."""

    number: int
    function: int
    arguments: dict[str, Any]
    rows: int = 1
    many: bool = False


def serve(source: int, sink: int) -> None:
    """Answer frames until the pool closes its end."""
    global INSIDE
    INSIDE = True
    setup = pickle.loads(read_frame(source))
    die_with(setup["parent"], source, sink)
    try:
        sys.path[:] = setup["path"]
        for name, file in setup["modules"]:
            import_file(name, Path(file))
        functions = [pickle.loads(blob) for blob in setup["functions"]]
        for where, _, name in (spec.partition(":") for spec in setup["prepare"]):
            getattr(importlib.import_module(where), name)()
    except BaseException as error:
        return write_frame(sink, (FAILED, failure(error).outcome.removeprefix("error: ")))
    write_frame(sink, (READY, None))
    loop = asyncio.new_event_loop()
    while frame := read_frame(source):
        try:
            calls = [Call(*c) for c in pickle.loads(frame)]
        except Exception as error:  # an argument whose class cannot be found here
            write_frame(sink, (REFUSED, failure(error).outcome))
            continue
        write_frame(sink, (TAKEN, None))
        _answer(calls, functions, setup["timeout"], loop, sink)


def _answer(calls: list[Call], functions: list[Function], timeout: float, loop: Any, sink: int) -> None:
    """Plain functions one after another; calls of asynchronous ones together."""
    waiting = []
    for call in calls:
        function = functions[call.function]
        if is_async(function):
            waiting.append(_judge_async(call, function, timeout, sink))
        else:
            write_frame(sink, (call.number, _judge(call, function)))
    if waiting:
        loop.run_until_complete(_all(waiting))


def _judge(call: Call, function: Function) -> list[Verdict]:
    me = os.getpid()
    try:
        returned = function(**call.arguments)
        if inspect.isawaitable(returned):  # a plain function that hands back a coroutine
            returned = asyncio.run(_await(returned))
        return _read(call, returned)
    except BaseException as error:
        return [failure(error)] * call.rows
    finally:
        if os.getpid() != me:  # the function forked, and this is the copy
            os._exit(0)


async def _judge_async(call: Call, function: Function, timeout: float, sink: int) -> None:
    try:
        verdicts = _read(call, await asyncio.wait_for(function(**call.arguments), timeout))
    except TimeoutError:
        verdicts = [Verdict(outcome=f"timeout: no result within {timeout:g} s")] * call.rows
    except BaseException as error:
        verdicts = [failure(error)] * call.rows
    write_frame(sink, (call.number, verdicts))


async def _all(waiting: list[Any]) -> None:
    await asyncio.gather(*waiting)


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _read(call: Call, returned: Any) -> list[Verdict]:
    if not call.many:
        return [read_one(returned)]
    verdicts = read_many(returned, call.rows)
    notes = {id(n): n for n in (getattr(call.arguments.get(k), "__self__", None) for k in ("log_extra", "log_metric"))}
    for one in notes.values():
        verdicts = one.added_to(verdicts) if isinstance(one, Notes) else verdicts
    return verdicts


def is_async(function: Function) -> bool:
    """True of `async def` functions and of objects whose __call__ is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def import_file(name: str, file: Path) -> Any:
    """Run a Python file as module `name` (once). The script that was started is also known as __main__."""
    if name in sys.modules and name != "__main__":
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location("__temper_main__" if name == "__main__" else name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = sys.modules[spec.name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def read_frame(source: int) -> bytes:
    """The next frame, b"" at the end of the stream."""
    header = _read_exactly(source, HEADER.size)
    return _read_exactly(source, HEADER.unpack(header)[0]) if header else b""


def _read_exactly(source: int, n: int) -> bytes:
    parts = []
    while n:
        part = os.read(source, min(n, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def write_frame(sink: int, content: Any) -> None:
    data = memoryview(pack(content))
    while data:
        data = data[os.write(sink, data) :]


def pack(content: Any) -> bytes:
    body = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def die_with(parent: int, source: int, sink: int) -> None:
    """End this process and what its functions start when the parent ends, however that happens, even inside a call that
    never returns: a copy of this process does nothing but wait for it."""
    me = os.getpid()
    if os.fork():
        return
    try:
        os.close(sink)
        hung = select.poll()
        hung.register(source, 0)  # only that the other end is closed
        while os.getppid() == me:
            if hung.poll(1000) or not _alive(parent):
                os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(0)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Keep the two pipes for the protocol and give the functions the null device instead."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    serve(source, sink)
