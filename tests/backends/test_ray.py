"""A run on Ray actors: the same run, whoever falls. One cluster of two simulated machines for the module."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

import ray
import torch
from ray.cluster_utils import Cluster

from studies import kills
from temper.backends.base import SamplingParams
from temper.backends.ray import Ray, environment
from temper.backends.ray_line import Line
from temper.cli.scale import scale
from temper.errors import UserError
from temper.loop import train
from temper.policy import Policy
from temper.request import plays
from temper.supervision import IN_PLACE, SKIP, Faults
from tests.faults import Network

QUICK = {"beat": 0.5, "silence": 60.0, "patience": 600.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with environment(alone=False):
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False},
        )
        made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()
    torch.set_num_threads(threads)


def test_whoever_is_killed_the_run_is_the_same(cluster: Any, exact_model: str, tmp_path: Path) -> None:
    """Two turns an attempt, played, judged, sampled, kept and trained in actors; eight of them are killed."""
    asyncio.run(train(kills.made(exact_model, tmp_path / "whole", 8)))
    run = kills.made(exact_model, tmp_path / "killed", 8)
    there = kills.placed(run, environments=1, rewards=1)
    shares = {"sampler": 2, "environment": 2, "reward": 1, "learner": 2, "bus": 1}
    killer = kills.Killer(there, kills.plan(8, 7, 0, shares), tmp_path / "kills.jsonl")
    run.probes.append(killer)
    killer.start()
    asyncio.run(train(run))
    assert killer.killed >= 7 and {role for role, _ in there.supervisor.counts} >= {"sampler", "learner", "bus"}
    assert kills.difference(tmp_path / "killed", tmp_path / "whole") == []
    assert kills.attempts(tmp_path / "killed") == kills.attempts(tmp_path / "whole")
    assert len((tmp_path / "killed" / "events.jsonl").read_text().splitlines()) == len(there.supervisor.events)


PROMPTS = [tuple(range(3, 5 + n)) for n in range(6)]


async def answers(policy: Policy) -> list[tuple[int, ...]]:
    asked = [SamplingParams(max_tokens=12, seed=n) for n in range(len(PROMPTS))]
    return [c.ids for c in await asyncio.gather(*map(policy.sampler.sample, PROMPTS, asked))]


def test_samplers_fall_silent_and_are_told_apart(cluster: Any, exact_model: str) -> None:
    """Slow and late answers are waited for; a partition, a stopped process and a lost call are found out. Who joins has
    the newest weights before it serves."""
    here = Policy(model=exact_model)
    here.open()
    expected = asyncio.run(answers(here))
    faults = Faults({"sampler": SKIP}, beat=0.5, silence=6.0, patience=300)
    policy = Policy(model=exact_model)
    policy.backend = there = Ray(samplers=3, cpus=0.01, faults=faults, spread=True)
    policy.open()
    sampler: Any = policy.sampler
    nodes = {m.line.about["node"] for m in sampler.crew.members}

    async def go() -> None:
        first, second, third = sampler.crew.members
        weights = policy.learner.weights()
        await sampler.load(weights, 1)
        slow = Network(delay=0.3, slow=0.3).on(first.line)
        assert await answers(policy) == expected
        slow.delay = slow.slow = 0.0
        slow.partition = True
        assert await answers(policy) == expected
        os.kill(second.line.about["pid"], signal.SIGSTOP)  # half open: the connection stands, nobody answers
        assert await answers(policy) == expected
        assert [e["who"] for e in there.supervisor.events] == [first.name, second.name]
        assert all("no heartbeat for 6 s" in e["why"] for e in there.supervisor.events)

        changed = {name: w + 0.05 for name, w in weights.items()}
        ack = await sampler.load(changed, 2)
        assert ack.version == 2 and ack.fingerprint != weights.fingerprint  # type: ignore[attr-defined]
        await sampler.grow()
        [joined] = [m for m in sampler.crew.members if m is not third]
        assert (await joined.line.call("load", 0, 9, {})) == (2, ack.fingerprint)  # a late operation changes nothing
        before = sampler.replicas[0].number
        await sampler.shrink(before)  # the one that was there leaves; the new one answers alone
        here.learner.load(changed)
        await here.sampler.load(changed, 2)
        assert await answers(policy) == await answers(here) != expected
        Network(drop=1, methods=("sample",)).on(joined.line)
        last = rf"no sampler of 'policy' is left: {joined.name} was the last \(it has had nothing to do for 6 s, while"
        with pytest.raises(UserError, match=last):
            await asyncio.wait_for(answers(policy), 200)

    try:
        assert len(nodes) == 2  # both machines
        asyncio.run(go())
    finally:
        policy.close()
        here.close()


def test_two_learners_share_a_policy_and_one_is_killed(cluster: Any, exact_model: str, tmp_path: Path) -> None:
    """FSDP2 ranks as actors: the same losses as one process to rounding, and the same bits when one is killed."""
    one = kills.made(exact_model, tmp_path / "one", 3)
    asyncio.run(train(one))
    run = kills.made(exact_model, tmp_path / "two", 3)
    there = Ray(samplers=1, learners=2, cpus=0.01, journal=2, faults=Faults(restarts=9, **QUICK))
    there.place(run)
    killer = kills.Killer(there, [(0, 1, 0.0, "learner")], tmp_path / "log")
    run.probes.append(killer)
    killer.start()
    asyncio.run(train(run))
    assert there.supervisor.counts == {("learner", IN_PLACE): 1}
    for mine, theirs in zip(kills.metrics(tmp_path / "two"), kills.metrics(tmp_path / "one"), strict=True):
        assert mine["reward"] == theirs["reward"] and mine["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert (tmp_path / "two/checkpoints/latest/model/model.safetensors").exists()


@dataclass
class Wishes:
    """A probe that has `temper scale` ask for so many samplers after some steps, and waits until there are."""

    there: Ray
    out: Path
    wishes: dict[int, int]

    async def __call__(self, run: Any, step: int) -> dict[str, float]:
        if step not in self.wishes:
            return {}
        [(_, sampler)] = self.there._served
        scale(self.out, samplers=(wished := self.wishes[step]))
        await run.probes[-2](run, step)  # as after the next step
        async with asyncio.timeout(200):
            while [r.held for r in sampler.replicas] != [False] * wished or len(sampler.crew.members) != wished:
                await asyncio.sleep(0.1)
        return {}


def test_a_run_is_scaled_from_outside_and_stays_the_same(cluster: Any, exact_model: str, tmp_path: Path) -> None:
    asyncio.run(train(kills.made(exact_model, tmp_path / "plain", 4)))
    run = kills.made(exact_model, tmp_path / "scaled", 4)
    there = kills.placed(run, samplers=1, environments=0, rewards=0, bus=False)
    run.probes.append(Wishes(there, tmp_path / "scaled", {1: 3, 2: 1}))
    asyncio.run(train(run))
    assert kills.difference(tmp_path / "scaled", tmp_path / "plain") == []
    assert there.supervisor.events == []
    who = [w["who"] for w in json.loads((tmp_path / "scaled/placement.json").read_text())]
    assert who == ["learner of 'policy' 0", "sampler of 'policy' 0"]  # the first stayed
    assert not any(plays(p, 1, 4) for p in run.probes[:-1])  # nobody falls silent for them


def test_a_learner_on_a_machine_without_the_scratch_folder_is_named(
    cluster: Any, exact_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor is told of a path that is not there, as on another machine."""
    ask = Line.ask
    monkeypatch.setattr(
        Line,
        "ask",
        lambda line, method, *args: ask(line, method, *("/not/there" if method == "sees" else a for a in args)),
    )
    run = kills.made(exact_model, tmp_path / "run", 1)
    Ray(cpus=0.01).place(run)
    why = r"learner of 'policy' 0 \(on .*\) does not see .*/run/.scratch: give one that all machines share: --scratch"
    with pytest.raises(UserError, match=why):
        asyncio.run(train(run))
    assert not (tmp_path / "run/.scratch").exists()


def test_a_learner_that_does_not_answer_is_named(cluster: Any) -> None:
    class Deaf:
        async def never(self) -> None:
            await asyncio.sleep(1000)

        async def beat(self) -> int:
            return 0

    line = Line(ray.remote(Deaf).options(num_cpus=0).remote(), "learner of 'policy' 0")
    began = time.monotonic()
    with pytest.raises(Exception, match=r"learner of 'policy' 0 is lost: the run has waited 3 s for it to make a step"):
        line.result(line.ask("never"), Faults(beat=0.5, silence=50, patience=2.5), "make a step")
    line.end()
    assert time.monotonic() - began < 30


def test_a_cluster_that_is_too_small_is_named(cluster: Any, exact_model: str) -> None:
    policy = Policy(model=exact_model)
    policy.backend = Ray(samplers=2, learners=2, cpus=8, faults=Faults(patience=1))
    with pytest.raises(
        UserError, match=r"'policy' needs 32 CPU for 2 learners and 2 samplers, and the cluster has .* of 2 CPU"
    ):
        policy.open()
