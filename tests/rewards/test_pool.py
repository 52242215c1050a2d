"""Whatever a function does, the caller gets one outcome a row; every case runs in a real process."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from temper.errors import UserError
from temper.rewards import pool as pool_module
from temper.rewards.pool import Pool
from temper.rewards.reference import refer
from temper.rewards.verdict import Verdict
from temper.rewards.worker import Call
from tests.rewards import functions


def judge(function, completions=("good", "bad", "good"), timeout=10.0, workers=1, **more) -> list[Verdict]:
    """Each completion's verdict, from a pool of its own."""
    pool = Pool([refer(function)], timeout, workers)
    try:
        answers = asyncio.run(pool.run([Call(0, 0, {"completion": c, **more}) for c in completions]))
    finally:
        pool.close()
    return [verdict for (verdict,) in answers]


LATE = "timeout: no result within 0.8 s"
MISBEHAVIOUR = [
    (functions.raises, "error: ValueError: two lines"),
    (functions.leaves, "error: SystemExit: 2"),
    (functions.hangs, LATE),
    (functions.hangs_in_c, LATE),
    (functions.prints_for_ever, LATE),
    (functions.dies, "crash: the process ended (exit status 3)"),
    (functions.faults, "crash: the process ended (SIGSEGV)"),
    (functions.nan, "invalid: returned nan"),
    (functions.infinite, "invalid: returned inf"),
    (functions.huge, "invalid: returned inf"),
    (functions.text, "invalid: returned a str ('1.0'), not a number"),
    (functions.array, "invalid: returned a ndarray (array([1., 1., 1.])), not a number"),
    (functions.never, LATE),
    (functions.stubborn, LATE),
    (functions.async_dies, "crash: the process ended (exit status 4)"),
]


@pytest.mark.parametrize(("function", "outcome"), MISBEHAVIOUR, ids=lambda x: getattr(x, "__name__", ""))
def test_one_bad_call_is_an_outcome_and_the_others_are_judged(function, outcome, monkeypatch):
    monkeypatch.setattr(pool_module, "GRACE_SECONDS", 0.3)
    good, bad, after = judge(function, timeout=0.8 if outcome == LATE else 10.0)
    assert good == after == Verdict(1.0)
    assert bad.outcome == outcome and math.isnan(bad.value)


def test_none_is_not_applicable_and_no_failure():
    bad = judge(functions.none)[1]
    assert bad.outcome == "ok" and math.isnan(bad.value)


@pytest.mark.parametrize("function", [functions.prints, functions.forks])
def test_output_and_forks_do_not_disturb_the_protocol(function):
    assert judge(function) == [Verdict(1.0)] * 3


def test_a_mapping_gives_a_score_and_its_numbers():
    assert judge(functions.mapping, ["x"]) == [Verdict(0.25, "ok", {"accuracy": 1.0})]


def test_a_mapping_without_score_is_invalid():
    assert judge(functions.mapping_without_score, ["x"])[0].outcome == (
        'invalid: returned a mapping without "score" (it has: value)'
    )


def test_results_keep_their_order_over_several_workers():
    numbers = [str(n) for n in range(8)]
    began = time.monotonic()
    assert [v.value for v in judge(functions.slow, numbers, timeout=5, workers=4)] == [float(n) for n in numbers]
    assert time.monotonic() - began < 8 * 0.3


def test_asynchronous_calls_run_together():
    began = time.monotonic()
    assert judge(functions.later, ["x"] * 40, timeout=5) == [Verdict(1.0)] * 40
    assert time.monotonic() - began < 40 * 0.3 / 2


def test_an_asynchronous_exception_is_an_outcome():
    assert judge(functions.async_raises, ["x"])[0].outcome == "error: KeyError: 'gone'"


def test_a_time_out_ends_what_the_function_started(tmp_path):
    assert judge(functions.starts_a_process, ["x"], timeout=0.8, folder=str(tmp_path))[0].outcome.startswith("timeout")
    for name in ("child", "worker"):
        assert gone(int((tmp_path / name).read_text()), seconds=3)


def test_close_ends_a_call_that_hangs_and_the_pool_can_be_used_again(tmp_path):
    pool = Pool([refer(functions.starts_a_process), refer(functions.half)], timeout=60)

    async def go():
        call = asyncio.create_task(pool.run([Call(0, 0, {"completion": "x", "folder": str(tmp_path)})]))
        while not (tmp_path / "worker").exists():
            await asyncio.sleep(0.02)
        pool.close()
        (ended,) = (await call)[0]
        return ended, await pool.run([Call(0, 1, {"completion": "x"})])

    ended, after = asyncio.run(go())
    pool.close()
    assert ended.outcome.partition(":")[0] in ("crash", "infrastructure") and after == [[Verdict(0.5)]]
    assert gone(int((tmp_path / "worker").read_text()), seconds=3)


def test_a_worker_that_died_while_idle_is_replaced_without_blame():
    pool = Pool([refer(functions.half)], timeout=5)

    async def go():
        before = await pool.run([Call(0, 0, {"completion": "x"})])
        os.kill(pool._live[0].process.pid, signal.SIGKILL)
        return before, await pool.run([Call(0, 0, {"completion": "x"})] * 3)

    before, after = asyncio.run(go())
    pool.close()
    assert before * 3 == after == [[Verdict(0.5)]] * 3


@pytest.mark.parametrize(
    ("thing", "outcome"),
    [
        (functions.Unreadable(), "error: RuntimeError: cannot be read here"),
        (threading.Lock(), "error: TypeError: cannot pickle '_thread.lock' object"),
    ],
)
def test_an_argument_that_cannot_be_sent_costs_only_its_own_call(thing, outcome):
    pool = Pool([refer(functions.takes)], timeout=5)
    things = [1, thing, 3]
    answers = asyncio.run(pool.run([Call(0, 0, {"completion": "x", "thing": thing}) for thing in things]))
    pool.close()
    assert [a.outcome for (a,) in answers] == ["ok", outcome, "ok"]


def test_a_worker_does_not_import_torch():
    assert judge(functions.imported, ["x"]) == [Verdict(0.0)]


def test_workers_and_what_they_started_die_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
            import asyncio, os, subprocess, sys, time
            from pathlib import Path

            def hang(completion):
                child = subprocess.Popen(["sleep", "600"])
                Path(__file__).with_name("worker").write_text(f"{os.getpid()} {child.pid}")
                time.sleep(600)

            if __name__ == "__main__":
                from temper.rewards.pool import Pool
                from temper.rewards.reference import refer
                from temper.rewards.worker import Call

                asyncio.run(Pool([refer(hang)], timeout=600).run([Call(0, 0, {"completion": "x"})]))
        """)
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root})
    note = tmp_path / "worker"
    try:
        assert eventually(lambda: note.exists() and note.read_text(), seconds=20)
    finally:
        parent.kill()
        parent.wait()
    assert all(gone(int(pid), seconds=3) for pid in note.read_text().split())


def test_a_script_that_starts_a_run_when_imported_is_told_so(tmp_path):
    script = tmp_path / "careless.py"
    script.write_text(
        textwrap.dedent("""
            import asyncio
            from temper.errors import UserError
            from temper.rewards.pool import Pool
            from temper.rewards.reference import refer
            from temper.rewards.worker import Call

            def half(completion):
                return 0.5

            try:
                asyncio.run(Pool([refer(half)]).run([Call(0, 0, {"completion": "x"})]))
            except UserError as error:
                print(error)
                raise
        """)
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert 'put that under `if __name__ == "__main__":`' in done.stdout and done.stdout.count("\n") == 1


def test_a_busy_event_loop_invents_no_time_out():
    """The caller's thread works for longer than the deadline while the answer is long there."""
    pool = Pool([refer(functions.half)], timeout=0.8)

    async def go():
        call = asyncio.create_task(pool.run([Call(0, 0, {"completion": "x"})] * 3))
        await asyncio.sleep(0)
        time.sleep(1.6)
        return await call

    answers = asyncio.run(go())
    pool.close()
    assert answers == [[Verdict(0.5)]] * 3


@pytest.mark.parametrize("made", [lambda completion: 1.0, functools.partial(lambda completion: 1.0)])
def test_a_lambda_is_refused_with_the_remedy(made):
    with pytest.raises(UserError, match=r"lambda or is defined inside another function.*top level of a file"):
        refer(made)


def test_a_nested_function_is_refused():
    def nested(completion):
        return 1.0

    with pytest.raises(UserError, match="'nested' is a lambda or is defined inside another function"):
        refer(nested)


def test_instances_of_importable_classes_and_partials_are_sent():
    assert judge(functions.Penalty(0.5), ["four"]) == [Verdict(-2.0)]
    assert judge(functools.partial(functions.right, answer="4"), ["4", "5"]) == [Verdict(1.0), Verdict(0.0)]


@pytest.mark.parametrize("bad", [{"timeout": 0}, {"workers": 0}])
def test_senseless_settings_are_refused(bad):
    with pytest.raises(UserError, match="positive timeout and at least one worker"):
        Pool([refer(functions.half)], **bad)


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends (a zombie has ended) within so many seconds."""
    return eventually(lambda: not _alive(pid), seconds)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(check, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
