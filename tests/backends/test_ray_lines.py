"""Faults of the network between the driver and learners, the bus, environments: each ends, or is named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("ray")

import ray

from studies.kills import Twice
from temper.backends.base import SamplingParams, fingerprint
from temper.backends.ray import Ray, environment
from temper.backends.ray_bus import RayBus
from temper.backends.ray_gang import Gang
from temper.backends.ray_pool import RayEnv
from temper.bus import Bus, Groups
from temper.episode import Completion
from temper.policy import Policy, Seat
from temper.supervision import Faults, Lost, Pulse
from temper.tasks.task import Task
from tests.faults import Network, Stuck

FAULTS = Faults(restarts=99, beat=0.5, silence=8, patience=30)
# what is wrong, and what the supervisor says of the line: nothing, where the call comes through in the end
WRONG = {
    "delay": ({"delay": 1.0}, ""),
    "slow": ({"slow": 1.0}, ""),
    "drop": ({"drop": 1, "methods": ("apply",)}, "the run has waited 3. s for it to "),
    "half open": ({"half_open": True}, "no heartbeat for 8 s"),
    "partition": ({"partition": True}, "no heartbeat for 8 s"),
}


@pytest.fixture(scope="module")
def there() -> Iterator[Ray]:
    """A cluster of this machine; its crews and gangs end with the module."""
    with environment():
        ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    made = Ray(cpus=0.01, faults=FAULTS, journal=2)
    made.supervisor.say = lambda text: None
    yield made
    for part in (*made._crews, *made._gangs):
        part.close()
    ray.shutdown()


def told(there: Ray, since: int) -> list[str]:
    return [f"{e['who']}: {e['why']}" for e in there.supervisor.events[since:]]


def assert_said(there: Ray, since: int, who: str, why: str) -> None:
    """One line of the supervisor about `who`, or none where there is no `why`."""
    said = told(there, since)
    assert bool(said) == bool(why) and (not why or re.match(f"{who}: {why}", said[0])), said


def well_again(gang: Gang) -> None:
    for name in ("ask", "arrived", "taken"):
        vars(gang.lines[0]).pop(name, None)


def test_the_bus_under_each_fault_says_what_one_in_this_process_says(there: Ray) -> None:
    settings: tuple[Any, int] = ({"train": ("batch",)}, 0)
    here, gang = Bus(*settings), there._bus(settings)
    gang.open()
    far = RayBus(lambda: gang)
    far._gang = gang
    for n, (name, (wrong, why)) in enumerate(WRONG.items()):
        before = len(there.supervisor.events)
        Network(**wrong).under(gang.lines[0])
        rows = {f"g{n}": [f"g{n}/0"]}
        for bus in (here, far):
            bus.open(f"open {n}", n, rows)
            assert bus.put("batch", {f"g{n}": name}) == 1
        mine, theirs = (bus.take(f"take {n}", "train", n, Groups(1)) for bus in (far, here))
        assert mine == theirs and mine[0]["batch"] == name
        assert_said(there, before, "bus 0", why)
        well_again(gang)


def test_a_learner_under_each_fault_has_the_weights_that_it_was_given(there: Ray, exact_model: str) -> None:
    learner = there._learner(Policy(model=exact_model), [], 0, 1, lambda planned: {})
    weights = dict(learner.weights())
    for n, (wrong, why) in enumerate(WRONG.values()):
        before = len(there.supervisor.events)
        Network(**wrong).under(learner.gang.lines[0])
        given = {name: w + 0.01 * (n + 1) for name, w in weights.items()}
        learner.load(given)
        assert learner.weights().fingerprint == fingerprint(given.items())
        assert_said(there, before, "learner of 'policy' 0", why)
        well_again(learner.gang)


class Slow:
    """A sampler that takes its time, and says the same for the same request."""

    context, end, vocabulary = 4096, (), 999

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.asked = seconds, 0

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        return Completion((5, 6), (-1.0, -1.0), "length", 0)


def seats(model: str, sampler: Slow) -> dict[str, Seat]:
    policy = Policy(model=model)
    policy.serve(sampler)  # type: ignore[arg-type]
    return {"solver": Seat("solver", policy, SamplingParams(max_tokens=2), 0, ("play",))}


TASK = Task("t1", "say ab", "ab", source="toy")
ENVIRONMENT = {
    "delay": ({"delay": 0.5}, ""),
    "slow": ({"slow": 0.5}, ""),
    "a lost play": ({"drop": 1, "methods": ("play",)}, "it has had nothing to do for 8 s, while the run waited"),
    "a lost answer": ({"drop": 1, "methods": ("answer",)}, "it has had nothing to do for 8 s, while the run waited"),
    "half open": ({"half_open": True}, "no heartbeat for 8 s"),
    "partition": ({"partition": True}, "no heartbeat for 8 s"),
}


def test_an_environment_under_each_fault_plays_the_same(there: Ray, exact_model: str) -> None:
    crew = there._crew("environment", "environment", Twice(), 1)
    env = RayEnv(Twice(), crew)
    crew.open()

    async def go() -> None:
        for wrong, why in ENVIRONMENT.values():
            before, sampler = len(there.supervisor.events), Slow()
            member = await crew.pick()
            line, real = member.line, member.line.ask
            Network(**wrong).on(line)
            episode = await env.play(TASK, seats(exact_model, sampler))
            assert [t.ids for t in episode.turns if t.logp] == [(5, 6), (5, 6)] and sampler.asked == 2
            assert_said(there, before, r"environment \d+", why)
            line.ask = real
        env.close()

    asyncio.run(go())


def test_who_waits_for_a_long_sample_is_not_taken_for_dead(there: Ray, exact_model: str) -> None:
    """Samples take longer than the run's patience with an environment."""
    impatient = replace(FAULTS, patience=3.0)
    crew = there._crew("environment", "environment", Twice(), 1)
    crew.open()
    before, sampler = len(there.supervisor.events), Slow(7.0)

    async def go() -> None:
        env = RayEnv(Twice(), crew)
        await env.play(TASK, seats(exact_model, Slow()))  # its tokenizer is loaded now
        crew.faults = impatient
        crew.members[0].pulse = Pulse(impatient)
        episode = await env.play(TASK, seats(exact_model, sampler))
        assert sum(bool(t.logp) for t in episode.turns) == 2
        crew.close()

    asyncio.run(go())
    assert told(there, before) == [] and sampler.asked == 2


def test_an_environment_that_never_gets_on_is_named_with_its_task(there: Ray, exact_model: str) -> None:
    crew = there._crew("environment", "environment", Stuck(), 1)
    crew.open()
    crew.faults = replace(FAULTS, beat=0.25, patience=2.0)
    before = len(there.supervisor.events)

    async def go() -> None:
        env = RayEnv(Stuck(), crew)
        [member] = crew.members
        with pytest.raises(Lost, match=r"environment 0 is lost: the run has waited 2 s for it to play task 't1'"):
            await env._played(member, TASK, seats(exact_model, Slow()), {})
        crew.close()

    asyncio.run(go())
    assert told(there, before) == []
