"""Who may fail, what happens then, and who waits for whom."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from temper.errors import UserError
from temper.loop import train
from temper.supervision import (
    AGAIN,
    IN_PLACE,
    SKIP,
    Exhausted,
    Faults,
    Overdue,
    Pulse,
    StartAgain,
    Supervisor,
    started_again,
    within,
)
from tests.core.busy import busy, outcome
from tests.faults import Network, Proxy, forever


def test_a_wait_beyond_its_deadline_says_who_waits_for_whom() -> None:
    with pytest.raises(Overdue, match=r"^the run has waited 0.05 s for sampler 1 to acknowledge version 3$"):
        asyncio.run(within(0.05, forever(), "the run", "sampler 1", "acknowledge version 3"))

    async def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):  # not the deadline's
        asyncio.run(within(5, late(), "the run", "sampler 1", "answer"))


def test_restarts_have_a_budget_within_a_window(tmp_path: Path) -> None:
    now = [0.0]
    s = Supervisor(Faults(restarts=2, window=100.0), clock=lambda: now[0])
    s.path = tmp_path / "events.jsonl"
    assert s.fell("sampler", "sampler 0", "killed") == IN_PLACE
    assert s.fell("learner", "learner 0", "killed") == IN_PLACE  # another role's budget
    now[0] = 60.0
    assert s.fell("sampler", "sampler 1", "killed") == IN_PLACE
    now[0] = 101.0  # the first is out of the window
    assert s.fell("sampler", "sampler 0", "killed") == IN_PLACE
    with pytest.raises(StartAgain, match=r"sampler 0 is lost \(killed\); 2 restarts in 100 s before"):
        s.fell("sampler", "sampler 0", "killed")
    told = [json.loads(line) for line in s.path.read_text().splitlines()]
    assert [e["action"] for e in told] == [IN_PLACE] * 4 + [AGAIN]
    assert s.counts["sampler", IN_PLACE] == 3


def test_each_role_has_its_policy() -> None:
    s = Supervisor(Faults({"environment": SKIP, "learner": AGAIN}))
    assert s.fell("environment", "environment 0", "killed") == SKIP
    with pytest.raises(StartAgain):
        s.fell("learner", "learner 0", "killed")
    with pytest.raises(UserError, match="no such fault policy: sampler = 'retry'; roles: sampler, environment"):
        Faults({"sampler": "retry"})
    with pytest.raises(UserError, match="cannot go on without its learner"):
        Faults({"learner": SKIP})


def test_heartbeats_are_counted_in_beats() -> None:
    f = Faults(beat=2.0, silence=6.0, patience=10.0)
    p = Pulse(f)
    for _ in range(2):
        p.silent()
    assert not p.dead
    p.silent()
    assert p.dead == "no heartbeat for 6 s"
    p.answered(1, waited_for=True)
    assert not p.dead
    for _ in range(5):
        p.answered(1, waited_for=True)
    assert p.dead == "no progress for 10 s, while the run waited for its answer"
    p.answered(2, waited_for=True)
    for _ in range(9):
        p.answered(2, waited_for=False)  # nobody waits: it may rest
    assert not p.dead
    for _ in range(3):
        p.answered(2, waited_for=True, at_work=False)
    assert p.dead.startswith("it has had nothing to do for 6 s, while the run waited")


class Fall:
    """Ends the run once at each of these steps."""

    def __init__(self, steps: list[int]):
        self.steps = steps

    async def __call__(self, run: Any, step: int) -> dict[str, float]:
        if step in self.steps:
            self.steps.remove(step)
            raise StartAgain(f"learner 0 is lost (killed in step {step})")
        return {}


def test_a_run_that_starts_again_ends_as_one_that_did_not(toy_model: str, tmp_path: Path) -> None:
    said: list[str] = []
    fall = Fall([3, 5])

    def go(resume: bool) -> None:
        run = busy(toy_model, tmp_path / "fell", steps=6, resume=resume)
        run.probes.append(fall)
        asyncio.run(train(run))

    def newest() -> str:
        link = tmp_path / "fell" / "checkpoints" / "latest"
        return link.resolve().name if link.is_symlink() else ""

    started_again(go, Faults(), newest, said.append)
    assert said == [
        "learner 0 is lost (killed in step 3): starting again from step_2",
        "learner 0 is lost (killed in step 5): starting again from step_4",
    ]
    asyncio.run(train(busy(toy_model, tmp_path / "whole", steps=6)))
    mine, theirs = outcome(tmp_path / "fell"), outcome(tmp_path / "whole")
    assert {k for k in theirs if mine[k] != theirs[k]} <= {"summary"}  # which tells of times


def test_a_run_that_gets_nowhere_ends() -> None:
    starts = []

    def go(resume: bool) -> None:
        starts.append(resume)
        raise StartAgain("learner 0 is lost (out of memory)")

    with pytest.raises(
        Exhausted, match=r"lost .*gave up after 3 new starts without a new checkpoint; the last .* step_4"
    ):
        started_again(go, Faults(again=3), lambda: "step_4", lambda text: None)
    assert starts == [False, True, True, True]


def test_faults_between_tcp_ends() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            heard.append(data)
            writer.write(data)
        writer.close()

    heard: list[bytes] = []

    async def said(proxy: Proxy, text: bytes, seconds: float = 2.0) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(text)
        try:
            return await asyncio.wait_for(reader.read(100), seconds)
        except TimeoutError:
            return b"nothing"
        finally:
            writer.close()

    async def go() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
            assert await said(proxy, b"a") == b"a"
            proxy.network = Network(delay=0.05, slow=0.05)
            began = time.monotonic()
            assert await said(proxy, b"b") == b"b" and time.monotonic() - began > 0.09
            proxy.network = Network(half_open=True)
            assert await said(proxy, b"c", 0.2) == b"nothing" and heard[-1] == b"c"
            proxy.network = Network(partition=True)
            assert await said(proxy, b"d", 0.2) == b"nothing" and heard[-1] == b"c"
            proxy.network = Network(drop=1)
            assert [await said(proxy, b"e", 0.2), await said(proxy, b"f")] == [b"nothing", b"f"]

    asyncio.run(go())
