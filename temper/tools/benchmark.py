"""How many calls a second the Python sandbox answers: `python -m temper.tools.benchmark [seconds] [at once]`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter

from temper.tools.base import Call, Toolbox
from temper.tools.python import Python


async def measure(box: Toolbox, seconds: float, at_once: int) -> tuple[float, list[float]]:
    """Calls a second, and the seconds of each, with `at_once` callers that never pause."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def caller() -> None:
        async with box.episode() as tools:
            while (began := time.perf_counter()) < until:
                await tools.run(Call("python", {"code": "print(1 + 1)"}))
                times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return len(times) / (time.perf_counter() - began), sorted(times)


def _cpu() -> float:
    """Seconds of this process and of the children that have ended."""
    return sum(os.times()[:4])


def main(seconds: float = 5.0, at_once: int = 8) -> None:
    """One line a mode."""
    for persistent in (False, True):
        tool = Python(persistent)
        box = Toolbox([tool])
        try:
            asyncio.run(measure(box, 0.2, at_once))  # starts the server
            box.counts = Counter()
            before = _cpu()
            rate, times = asyncio.run(measure(box, seconds, at_once))
        finally:
            tool.close()
        cost = (_cpu() - before) / len(times) * 1e3
        mode = "persistent" if persistent else "one-shot"
        p50, p99 = times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3
        print(f"{mode:10} {rate:6.0f} calls/s, each {cost:.2f} ms of CPU, {p50:.1f} ms (p50), {p99:.1f} ms (p99)")
        print(f"{'':10} {dict(box.counts)}")
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{at_once} callers, {len(os.sched_getaffinity(0))} cores, load {load}")


if __name__ == "__main__":
    main(float((sys.argv[1:2] or ["5"])[0]), int((sys.argv[2:3] or ["8"])[0]))
