"""Programs as environments: trained as they are, and stated outcomes for those that fail."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import REWARD, TRAJECTORY
from temper.envs.agent import Agent, number
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.gateway.programs import command
from temper.loop import train
from temper.objective import Update
from temper.policy import Policy, Seat
from temper.request import Drop
from temper.run import Run
from temper.tasks.task import Task
from temper.testing import check_env
from tests.gateway.callers import ask, polite
from tests.seams.toys import CENTRED, POLICY_TERM, SHORT, curriculum
from tests.seams.toys import policy as trained

PROGRAM = [sys.executable, str(Path(__file__).parent / "programs" / "two_calls.py")]
TASK = Task("t", "say ab", "ab")


async def patient(task: Task, base_url: str, api_key: str) -> None:
    """Calls at the same time, and blocks its own loop as async agents do."""
    ask(base_url, api_key, task.messages)
    await asyncio.gather(*(asyncio.to_thread(ask, base_url, api_key, task.messages, n=2) for _ in range(3)))


def play(env: Agent, policy: Policy, task: Task = TASK) -> Episode:
    async def once() -> Episode:
        try:
            return await env.play(task, {"solver": Seat("solver", policy, SamplingParams(max_tokens=6), 0, ("x",))})
        finally:
            await env.aclose()

    return asyncio.run(once())


def test_an_agent_that_judges_is_an_environment(exact_model: str, tmp_path: Path) -> None:
    episode = check_env(Agent(polite, judges=True), tmp_path, model=exact_model)
    assert [t.author for t in episode.turns] == [ENV, "solver", ENV, "solver"]
    assert episode.trajectories[0].info == {"calls": 2, "chains": 1, "forks": 0, "ended": "ok"}
    assert episode.trajectories[0].reward == len(episode.turns[3].text)


def test_calls_at_once_and_choices(policy: Policy) -> None:
    episode = play(Agent(patient), policy)
    (trajectory,) = episode.trajectories
    assert (trajectory.info["calls"], trajectory.info["chains"]) == (7, 4)
    assert trajectory.reward is None
    assert len({t.ids for t in episode.turns if t.author == "solver"}) > 1


def test_an_unmodified_program_is_trained(toy_model: str, tmp_path: Path) -> None:
    """Two updates; before each, the learner agrees with what was sampled."""
    pytest.importorskip("openai")
    p = trained(toy_model)
    run = Run(
        env=Agent(PROGRAM, judges=True), curriculum=curriculum(2), roles={"solver": p}, on_group=[CENTRED],
        updates=[Update(p, [POLICY_TERM])], groups=1, steps=2, sampling=SHORT, out=tmp_path,
    )  # fmt: skip
    asyncio.run(train(run))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [r for r in rows if "policy_kl" in r]
    assert len(rows) == run.steps
    assert all(abs(r["policy_kl"]) < 1e-6 for r in rows)
    assert not any(k.startswith("dropped") for r in rows for k in r)


def test_tokens_of_both_turns_are_trained_on(policy: Policy) -> None:
    episode = play(Agent(polite, judges=True), policy)
    b = Batch.of([episode])
    assert b.size(TRAJECTORY) == 1
    assert b.token_ids.tolist() == [i for t in episode.turns if t.author == "solver" for i in t.ids]
    assert float(b[REWARD][0]) == episode.trajectories[0].reward


def crash(task: Task, base_url: str, api_key: str) -> None:
    ask(base_url, api_key, task.messages)
    raise ValueError("I cannot read this")


def exits(task: Task, base_url: str, api_key: str) -> None:
    ask(base_url, api_key, task.messages)
    sys.exit(3)


def hang(task: Task, base_url: str, api_key: str) -> None:
    ask(base_url, api_key, task.messages)
    time.sleep(1.5)


def no_number(task: Task, base_url: str, api_key: str) -> str:
    ask(base_url, api_key, task.messages)
    return "well done"


def too_much(task: Task, base_url: str, api_key: str) -> None:
    ask(base_url, api_key, task.messages)
    ask(base_url, api_key, [{"role": "user", "content": "a b c " * 5000}])


FAILURES = [
    (crash, "error: ValueError: I cannot read this"),
    (exits, "error: SystemExit: 3"),
    (hang, "timeout"),
    (no_number, "error: the agent returned no number"),
]


@pytest.mark.parametrize(("program", "outcome"), FAILURES, ids=[f[1] for f in FAILURES])
def test_failures_are_outcomes_and_no_scores(policy: Policy, program: Any, outcome: str) -> None:
    (t,) = play(Agent(program, judges=True, timeout=0.7), policy).trajectories
    assert (t.reward, t.outcome) == (None, outcome)
    (t,) = play(Agent(program, judges=True, timeout=0.7, blame=True), policy).trajectories
    assert (t.reward, t.outcome, t.info["ended"]) == (0.0, "ok", outcome)


def test_a_policy_that_fills_its_context_is_judged(policy: Policy) -> None:
    (t,) = play(Agent(too_much, judges=True, timeout=5.0, lost=-1.0), policy).trajectories
    assert (t.reward, t.outcome, t.info["ended"]) == (-1.0, "ok", "context full")
    (t,) = play(Agent(too_much, timeout=5.0), policy).trajectories
    assert (t.reward, t.outcome) == (None, "ok")


def test_attempts_without_a_call_are_dropped(policy: Policy) -> None:
    def idle(task: Task, base_url: str, api_key: str) -> None:
        """Nothing."""

    def early(task: Task, base_url: str, api_key: str) -> None:
        raise KeyError("x")

    def lost(task: Task, base_url: str, api_key: str) -> None:
        ask(base_url, api_key, [{"role": "user", "content": "a b c " * 5000}])

    for program, why in (
        (idle, "agent made no call"), (early, "agent made no call before it crashed"), (lost, "prompt too long"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "agent made no call before it ran out of time"),
    ):  # fmt: skip
        with pytest.raises(Drop) as drop:
            play(Agent(program, timeout=1.0), policy)
        assert drop.value.reason == why


def test_a_command_that_does_not_exist_is_the_users_error(policy: Policy) -> None:
    with pytest.raises(UserError, match="cannot start the agent"):
        play(Agent("no-such-program --here"), policy)


def test_a_key_opens_nothing_after_its_episode(policy: Policy) -> None:
    kept: dict[str, Any] = {}

    def leave_behind(task: Task, base_url: str, api_key: str) -> None:
        ask(base_url, api_key, task.messages)

        def later() -> None:
            time.sleep(0.3)
            try:
                ask(base_url, api_key, task.messages)
            except (urllib.error.URLError, ConnectionError) as error:
                kept["error"] = error

        kept["thread"] = threading.Thread(target=later)
        kept["thread"].start()

    async def two_plays() -> None:
        env = Agent(leave_behind)
        seat = Seat("solver", policy, SamplingParams(max_tokens=4), 0, ("x",))
        await env.play(TASK, {"solver": seat})
        await asyncio.to_thread(kept["thread"].join)
        await env.aclose()

    asyncio.run(two_plays())
    assert getattr(kept["error"], "code", None) == 401


def test_the_deadline_kills_the_whole_process_group(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; yes"
    began = time.monotonic()
    end = asyncio.run(command(["sh", "-c", script], environ=os.environ, stdin="", timeout=0.5))
    assert (end.how, time.monotonic() - began < 5) == ("timeout", True)
    assert len(end.value) <= 16 * 1024
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_a_finished_program_leaves_behind_is_killed(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; echo 0.5"
    began = time.monotonic()
    end = asyncio.run(command(["sh", "-c", script], environ=os.environ, stdin="x" * 10**6, timeout=20))
    assert (end.how, number(end.value)) == ("ok", 0.5)
    assert time.monotonic() - began < 5
    assert gone(int((tmp_path / "pid").read_text()))


def gone(pid: int) -> bool:
    """Whether a process ends within two seconds (a zombie has)."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("said", [None, "nan", float("inf"), "", "x\n", [], 10**400])
def test_what_is_no_reward(said: Any) -> None:
    assert number(said) is None
