"""Somebody's program, run to its end or its deadline: a Python function, or a command with its process group."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shlex
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.errors import UserError

TAIL = 16 * 1024  # bytes kept of what a command prints
POLL = 0.02  # seconds between two looks at whether a command is over: its pipes may outlive it
Program = Callable[..., Any] | str | Sequence[str]


@dataclass(frozen=True)
class End:
    """How a program ended. how: "ok", "timeout" or "error"; value: what it returned, or the end of what it printed."""

    how: str
    value: Any = None
    why: str = ""


async def call(function: Callable[..., Any], arguments: Mapping[str, Any], timeout: float) -> End:
    """`function(**arguments)` in a thread of its own, so that it may block. An async one gets a loop there.

    A thread cannot be killed: after the deadline a coroutine is cancelled, a plain function is left behind.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[End] = loop.create_future()
    inner: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def within() -> Any:
        task = asyncio.current_task()
        assert task is not None
        inner.append((asyncio.get_running_loop(), task))
        return await function(**arguments)

    def work() -> None:
        try:
            value = asyncio.run(within()) if _is_async(function) else function(**arguments)
            end = End("ok", value)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            end = End("error", why=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the run's loop is closed: nobody waits
            loop.call_soon_threadsafe(_deliver, over, end)

    threading.Thread(target=work, name="temper-agent", daemon=True).start()
    try:
        return await asyncio.wait_for(over, timeout)
    except TimeoutError:
        return End("timeout", why=f"no end within {timeout:g} s")
    finally:
        for theirs, task in inner:
            with contextlib.suppress(RuntimeError):
                theirs.call_soon_threadsafe(task.cancel)


def _deliver(over: asyncio.Future[End], end: End) -> None:
    if not over.done():
        over.set_result(end)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def command(
    argv: str | Sequence[str], *, environ: Mapping[str, str], stdin: str, timeout: float, cwd: str | None = None
) -> End:
    """A command line to its end; whatever is left of its process group is killed then, or at the deadline."""
    words = shlex.split(argv) if isinstance(argv, str) else [str(w) for w in argv]
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ), cwd=cwd, start_new_session=True
        )
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"cannot start the agent {shlex.join(words)[:200]!r}: {error}")
    assert process.stdin and process.stdout and process.stderr
    jobs = [asyncio.ensure_future(c) for c in (
        _tail(process.stdout), _tail(process.stderr), _feed(process.stdin, stdin))]  # fmt: skip
    late = False
    try:
        async with asyncio.timeout(timeout):
            while process.returncode is None:
                await asyncio.sleep(POLL)
    except TimeoutError:
        late = True
    finally:
        kill_group(process.pid)
        await asyncio.wait(jobs, timeout=1.0)
        for job in jobs:
            job.cancel()
        done = await asyncio.gather(*jobs, return_exceptions=True)
    out, err = ("" if isinstance(d, BaseException) else d for d in done[:2])
    if late:
        return End("timeout", out, f"no end within {timeout:g} s")
    return End("ok", out) if process.returncode == 0 else End("error", out, f"exit {process.returncode}: {err}"[-2000:])


def kill_group(pid: int) -> None:
    """End a process group that was started with `start_new_session`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def _tail(reader: asyncio.StreamReader) -> str:
    """The end of a stream that is read to its end, however long it is."""
    kept = b""
    while data := await reader.read(65536):
        kept = (kept + data)[-TAIL:]
    return kept.decode("utf-8", "replace")


async def _feed(writer: asyncio.StreamWriter, text: str) -> str:
    with contextlib.suppress(OSError):
        writer.write(text.encode("utf-8", "replace"))
        await writer.drain()
        writer.close()
    return ""
