"""A wait without end: who waits for whom is said, and a deadline drops the attempt or ends the run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from temper.cli import main
from temper.cli.run import build, resolve
from temper.columns import REWARD, TASK, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.run import Run
from temper.sync import SYNC
from tests.asynchrony.parts import Twice, apart
from tests.asynchrony.test_loop import endless, slow, virtually
from tests.seams import toys


class Stuck(SingleTurn):
    """A task that never begins to be played."""

    async def play(self, task: Any, roles: Any) -> Any:
        if task.id in ("t1", "t4"):
            await asyncio.sleep(1e9)
        return await super().play(task, roles)


class Hesitant(Twice):
    """Thinks for a minute before each question; its samples take longer."""

    async def asked(self, seat: Any, ids: tuple[int, ...]) -> Any:
        await asyncio.sleep(60)
        return await super().asked(seat, ids)


def stuck(model: str, pause: Any = slow, **fields: Any) -> tuple[Run, Any]:
    return apart(model, 1, pause, **{"env": Stuck(), "curriculum": endless(), "steps": 3, **fields})


def test_a_stuck_environment_is_named_and_the_run_ended(toy_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, ages = stuck(toy_model, stall_timeout=500.0)
    with pytest.raises(
        UserError, match="nothing has begun or ended for 500 s: training waits for the groups of step 1"
    ):
        virtually(run)
    said = capsys.readouterr().err
    first, second, _ = (line for line in said.splitlines() if line.startswith("nothing"))  # 120, 240, 480 s: rarely
    assert first.startswith("nothing has begun or ended for 120 s: training waits for the groups of step 1 (1")
    assert "train waits for Stuck to play task 't1' (3 times, 1" in first and first.endswith("s)")
    assert second.startswith("nothing has begun or ended for 240 s") and not ages.batches


def test_an_attempt_whose_environment_is_stuck_is_dropped_and_never_scored(toy_model: str) -> None:
    run, ages = stuck(toy_model, env_timeout=30.0)
    virtually(run)
    assert [[t.id for t in b[TASK]] for b in ages.batches] == [["t0", "t2"], ["t3", "t5"], ["t6", "t7"]]
    assert all(b.size(TRAJECTORY) == 6 and not b[REWARD].isnan().any() for b in ages.batches)
    counts = [r.get("dropped/infrastructure: environment timeout", 0) for r in run.reporter.history]
    assert counts == [3, 3, 0]


def test_only_the_environment_is_timed(toy_model: str) -> None:
    """Two moves of a minute are within 90 s each, and a sample of hours is not its own time."""
    run, ages = stuck(toy_model, lambda *_: 9000.0, env=Hesitant(), env_timeout=90.0, note_after=0.0)
    virtually(run)
    assert len(ages.batches) == 3 and all(b.size(TRAJECTORY) == 6 for b in ages.batches)


def test_silence_that_never_comes_is_named(toy_model: str) -> None:
    """An evaluation that waits for a training episode in flight, which is stuck."""
    probes = [Evaluation(toys.TASKS[:1], 1, every=1)]

    class Late(Stuck):
        async def play(self, task: Any, roles: Any) -> Any:
            if task.id == "t2" and task.prompt.startswith("say ab") and roles["solver"]._who[0] == "train":
                await asyncio.sleep(1e9)
            return await SingleTurn.play(self, task, roles)

    run, _ = stuck(toy_model, env=Late(), ahead=1, sync=SYNC["delayed"], probes=probes, stall_timeout=200.0)
    why = "Late to play task 't2'.*; an evaluation or a checkpoint waits until episodes and stages in flight have ended"
    with pytest.raises(UserError, match=why):
        virtually(run)


def test_the_driver_being_busy_is_no_stall(toy_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Time in which the loop itself computes counts neither against environments nor as a stall."""
    import time

    class Busy(SingleTurn):
        async def play(self, task: Any, roles: Any) -> Any:
            await asyncio.sleep(0.01)
            time.sleep(0.3)
            return await super().play(task, roles)

    run, ages = apart(toy_model, 1, env=Busy(), steps=1, env_timeout=0.2, stall_timeout=0.2, note_after=0.2)
    asyncio.run(asyncio.wait_for(_train(run), 60))
    assert ages.batches[0].size(TRAJECTORY) == 6 and "nothing" not in capsys.readouterr().err


async def _train(run: Run) -> None:
    from temper.loop import train

    await train(run)


def test_both_are_options_of_every_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "grpo", "--stall-timeout", "-1"]) == 2
    assert "--stall-timeout must not be negative, got -1" in capsys.readouterr().err
    [run], _ = build(resolve(["grpo", "--env-timeout", "5", "--stall-timeout", "60", "--eval-tasks", "0", "--dry-run"]))
    assert (run.env_timeout, run.stall_timeout) == (5.0, 60.0)
