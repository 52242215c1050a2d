"""The Python tool when nobody means harm."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from temper.errors import UserError
from temper.tools.base import Call, Fault, Result, Toolbox
from temper.tools.python import Python
from temper.tools.sandbox import Limits, isolation
from tests.tools.conftest import processes

Run = Callable[[str], Result]


@pytest.mark.parametrize(
    "code, text",
    [
        ("print(2**61 - 1)", "2305843009213693951"),
        ("x = 6\nx * 7", "42"),
        ("'a'", "'a'"),
        ("None", ""),
        ("import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')", "a\nb\nc"),
        ("import fractions, statistics\nfractions.Fraction(1, 3) + 1", "Fraction(4, 3)"),
        ("print('é ☃')", "é ☃"),
        ("raise SystemExit", ""),
        ("", ""),
        ("import asyncio\nasync def f(): return 1\nasyncio.run(f())", "1"),
        ("import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'abc'))", "3"),
        ("__name__", "'__main__'"),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nA(1)", "A(x=1)"),
    ],
)
def test_runs(run: Run, code: str, text: str) -> None:
    assert run(code) == Result(text, "ok")


@pytest.mark.parametrize(
    "code, last",
    [
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("x = (1", "SyntaxError: '(' was never closed"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
    ],
)
def test_errors_read_as_an_interpreter_prints_them(run: Run, code: str, last: str) -> None:
    result = run(code)
    assert result.outcome == "tool error"
    assert result.text.splitlines()[-1] == last
    assert "cell.py" not in result.text


def test_calls_share_nothing(run: Run) -> None:
    run("x = 1")
    assert "NameError" in run("x").text


def test_episodes_keep_their_variables_apart(python: Python) -> None:
    tool = Python(persistent=True, seconds=1.0)

    async def play(number: int) -> list[str]:
        async with Toolbox([tool]).episode() as box:
            codes = (f"x = {number}", "x += 1", "print(x)")
            return [(await box.run(Call("python", {"code": code}))).text for code in codes]

    async def every() -> list[list[str]]:
        return await asyncio.gather(*(play(n) for n in range(8)))

    try:
        assert [texts[-1] for texts in asyncio.run(every())] == [str(n + 1) for n in range(8)]
        with pytest.raises(Fault, match="belongs to an episode"):
            asyncio.run(tool(code="1"))
    finally:
        tool.close()


def test_after_a_time_out_the_variables_are_gone(python: Python) -> None:
    tool = Python(persistent=True, seconds=0.4)

    async def play() -> list[Result]:
        async with Toolbox([tool]).episode() as box:
            return [await box.run(Call("python", {"code": c})) for c in ("x = 1", "while 1: pass", "x")]

    try:
        first, second, third = asyncio.run(play())
    finally:
        tool.close()
    assert (first.outcome, second.outcome, third.outcome) == ("ok", "timeout", "tool error")
    assert second.text.endswith("[the variables are lost]")


def test_cancelling_ends_the_process(python: Python) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(python(code="while True: pass"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert asyncio.run(python(code="1")) == Result("1", "ok")


def test_waiting_for_a_worker_is_no_time_out(python: Python) -> None:
    tool = Python(seconds=0.5, workers=1)

    async def crowd() -> list[Result]:
        return await asyncio.gather(*(tool(code="import time\ntime.sleep(0.2)\n1") for _ in range(5)))

    began = time.monotonic()
    try:
        assert asyncio.run(crowd()) == [Result("1", "ok")] * 5
    finally:
        tool.close()
    assert time.monotonic() - began > 0.9


def test_a_dead_server_is_replaced(python: Python) -> None:
    tool = Python()
    try:
        assert asyncio.run(tool(code="1")).outcome == "ok"
        assert tool.server.process is not None
        tool.server.process.kill()
        tool.server.process.wait()
        assert asyncio.run(tool(code="1")).outcome == "ok"
    finally:
        tool.close()


def test_a_server_that_ends_during_a_call_is_a_fault(python: Python) -> None:
    tool = Python()

    async def play() -> Result:
        task = asyncio.create_task(Toolbox([tool]).run(Call("python", {"code": "while True: pass"})))
        await asyncio.sleep(0.2)
        assert tool.server.process is not None
        tool.server.process.kill()
        return await task

    try:
        assert asyncio.run(play()).outcome == "fault"
    finally:
        tool.close()


def test_no_more_open_files_is_a_fault(python: Python) -> None:
    tool = Python()
    tool.server.interpreter().close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tool.server._ready.clear()
    gc.collect()  # no file that an earlier test left may close in between
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(Fault, match="no interpreter can be made"):
            tool.server.interpreter()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        tool.close()


def test_nothing_is_left_when_a_program_ends(python: Python) -> None:
    code = "from temper.tools.python import Python\np = Python()\np.server.interpreter()\nprint(p.server._root)"
    where = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, timeout=60)
    root = done.stdout.strip()
    assert root
    assert not Path(root).exists()
    assert processes(root) == 0


def test_packages_are_there_when_asked_for(python: Python) -> None:
    pytest.importorskip("numpy")
    tool = Python(packages=("numpy",), limits=Limits(memory=2 << 30), seconds=5.0)
    try:
        assert asyncio.run(
            tool(code="import numpy as np\nint(np.linalg.det(np.eye(2)) + np.polynomial.Polynomial([9])(0))")
        ) == Result("10", "ok")
        assert asyncio.run(tool(code="import pytest")).outcome == "tool error"
    finally:
        tool.close()
    with pytest.raises(UserError, match="not installed"):
        asyncio.run(Python(packages=("nothing_like_this",))(code="1"))


def test_threads_when_allowed(python: Python) -> None:
    tool = Python(limits=Limits(threads=True))
    code = "import threading\nt = threading.Thread(target=print, args=('in',))\nt.start()\nt.join()"
    try:
        assert asyncio.run(tool(code=code)) == Result("in", "ok")
        assert "PermissionError" in asyncio.run(tool(code="import os\nos.fork()")).text
    finally:
        tool.close()


def test_isolation_says_what_is_in_force(python: Python) -> None:
    report = isolation()
    assert set(report) == {"processes", "network", "files", "landlock", "calls"}
