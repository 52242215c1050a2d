"""Worker processes with a deadline for every call. Whatever a function does, the caller gets one outcome per row.

Each worker is driven by a thread of its own, so that a busy event loop neither delays a deadline nor invents one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from temper.errors import UserError
from temper.rewards import worker
from temper.rewards.reference import Reference
from temper.rewards.verdict import Verdict, failure
from temper.rewards.worker import FAILED, TAKEN, Call

START_SECONDS = 120.0  # for the worker's imports; a user's file may import large libraries
GRACE_SECONDS = 1.0  # beyond the deadline, when the worker keeps the deadlines of asynchronous calls itself
RETRIES = 2  # new processes for calls that no process has begun
CHUNK = 64  # calls sent to a worker at once
_BOOT = "import sys; sys.path[:0] = sys.argv[1:2]; from temper.rewards.worker import main; main()"
Answers = list[list[Verdict]]


class _Job(NamedTuple):
    calls: Sequence[Call]
    future: asyncio.Future[Answers]
    loop: asyncio.AbstractEventLoop


class Pool:
    """`workers` processes that share one queue of calls. Started at the first call; `close` kills them.

    timeout   seconds of one call, from the moment the worker is free for it
    """

    def __init__(self, functions: Sequence[Reference], timeout: float = 10.0, workers: int = 1):
        if worker.INSIDE:
            raise UserError(
                'the file of a reward function starts a run when imported: put that under `if __name__ == "__main__":`'
            )
        if timeout <= 0 or workers < 1:
            raise UserError(f"rewards need a positive timeout and at least one worker, got {timeout} and {workers}")
        self.functions, self.timeout, self.workers = tuple(functions), timeout, workers
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._live: list[Worker] = []

    async def run(self, calls: Sequence[Call]) -> Answers:
        """The verdicts of every call, in the order of `calls`. UserError when a function cannot be loaded."""
        self._start()
        loop = asyncio.get_running_loop()
        size = max(1, min(CHUNK, -(-len(calls) // self.workers)))
        jobs = [_Job(calls[i : i + size], loop.create_future(), loop) for i in range(0, len(calls), size)]
        for job in jobs:
            self._queue.put(job)
        return [answer for part in await asyncio.gather(*(job.future for job in jobs)) for answer in part]

    def close(self) -> None:
        """Kill the workers; calls that still wait end as outcomes. The pool may be used again."""
        threads, self._threads = self._threads, []
        live, self._live = self._live, []
        for one in live:
            one.stop()
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join(timeout=5.0)

    def _start(self) -> None:
        while len(self._threads) < self.workers:
            one = Worker(self.functions, self.timeout)
            thread = threading.Thread(target=_drive, args=(one, self._queue), name="temper-rewards", daemon=True)
            self._live.append(one)
            self._threads.append(thread)
            thread.start()


def _drive(one: Worker, jobs: queue.SimpleQueue[_Job | None]) -> None:
    """A worker's thread: one job after another until None."""
    while (job := jobs.get()) is not None:
        if job.future.cancelled():
            continue
        try:
            answers: Answers | None = one.run(job.calls)
            error = None
        except BaseException as raised:
            answers, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for the answer
            job.loop.call_soon_threadsafe(_settle, job.future, answers, error)
    one.kill()


def _settle(future: asyncio.Future[Answers], answers: Answers | None, error: BaseException | None) -> None:
    if future.done():  # the caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    elif answers is not None:
        future.set_result(answers)


class Worker:
    """One child process, restarted whenever a call had to be ended. Used by one thread, except for `kill`."""

    def __init__(self, functions: Sequence[Reference], timeout: float):
        self.functions, self.timeout = functions, timeout
        self.process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def run(self, calls: Sequence[Call]) -> Answers:
        """One answer a call. Calls after one that had to be ended are sent again to a new process."""
        answers: dict[int, list[Verdict]] = {}
        careful = False
        while remaining := [(i, c) for i, c in enumerate(calls) if i not in answers]:
            waiting = dict(remaining[:1] if careful else remaining)
            refusal = self._offer(waiting)
            if refusal is None:
                careful = self._collect(waiting, answers) or careful
            elif len(waiting) == 1 or self.closed:
                answers |= {i: _all(c, refusal) for i, c in waiting.items()}
            else:
                careful = True
        return [answers[i] for i in range(len(calls))]

    def _offer(self, waiting: dict[int, Call]) -> str | None:
        """Send calls; None once the process has them, else the outcome of what could not be sent."""
        try:
            frame = worker.pack([c._replace(number=i) for i, c in waiting.items()])
        except Exception as error:
            return failure(error).outcome
        for _ in range(1 + RETRIES):  # a process that ended while idle is nobody's fault
            if self.closed:
                return "infrastructure: the rewards were closed"
            if self.process is None or self.process.poll() is not None:
                self._begin()
            received = self._receive(START_SECONDS) if self._send(frame) else None
            if isinstance(received, tuple):
                return None if received[0] == TAKEN else str(received[1])
            self.kill()
        return "crash: the process ended before it had read the arguments"

    def _collect(self, waiting: dict[int, Call], answers: dict[int, list[Verdict]]) -> bool:
        """Answers as they come, until one call must be blamed for none. True when it is not known which: asynchronous
        calls run in company, and when they stall or crash together they are asked again one at a time."""
        alone = len(waiting) == 1
        grace = GRACE_SECONDS if any(self._asynchronous(c) for c in waiting.values()) else 0.0
        while waiting:
            received = self._receive(self.timeout + grace)
            if isinstance(received, str):
                guilty = next((i for i, c in waiting.items() if alone or not self._asynchronous(c)), None)
                if guilty is not None:
                    answers[guilty] = _all(waiting[guilty], received)
                return guilty is None
            number, verdicts = received
            answers[number] = verdicts
            del waiting[number]
        return False

    def _asynchronous(self, call: Call) -> bool:
        return self.functions[call.function].asynchronous

    def _begin(self) -> None:
        """Start the process and wait for its imports. UserError when a function cannot be loaded."""
        root = str(Path(__file__).resolve().parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # its own process group: what a function starts is killed with it
        )
        modules = {name: file for f in self.functions for name, file in f.modules}
        setup = {
            "path": sys.path,
            "parent": os.getpid(),
            "modules": list(modules.items()),
            "functions": [f.blob for f in self.functions],
            "prepare": [f.prepare for f in self.functions if f.prepare is not None],
            "timeout": self.timeout,
        }
        received = self._receive(START_SECONDS) if self._send(worker.pack(setup)) else "crash: it ended at once"
        if isinstance(received, str) and not self.closed:
            raise UserError(f"the process for reward functions did not start: {received}")
        if isinstance(received, tuple) and received[0] == FAILED:
            self.kill()
            raise UserError(f"a reward function cannot be loaded in its own process: {received[1]}")

    def _send(self, frame: bytes) -> bool:
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(frame)
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def _receive(self, seconds: float) -> Any:
        """The next frame, or the outcome (a text) when the process had to be ended or ended itself."""
        assert self.process is not None and self.process.stdout is not None
        source = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(source, select.POLLIN)
        if not poll.poll(seconds * 1000):
            self.kill()
            return f"timeout: no result within {self.timeout:g} s"
        data = worker.read_frame(source)
        return pickle.loads(data) if data else f"crash: the process ended ({_manner(self.kill(wait=0.5))})"

    def stop(self) -> None:
        """From another thread: end the process; the worker's own thread sees that and gives up."""
        self.closed = True
        process = self.process
        if process is not None:
            _kill_group(process.pid)

    def kill(self, wait: float = 0.0) -> int | None:
        """End the process group, after up to `wait` seconds for an end of its own; the exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        _kill_group(process.pid)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was still buffered for a dead reader
                if pipe is not None:
                    pipe.close()
        return process.wait()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _all(call: Call, outcome: str) -> list[Verdict]:
    return [Verdict(outcome=outcome)] * call.rows


def _manner(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
