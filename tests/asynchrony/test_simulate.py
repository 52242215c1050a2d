"""Virtual time: repeatable to the bit, the same training as without, and what can be worked out by hand."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from temper.backends.base import SamplingParams
from temper.errors import UserError
from temper.simulate import Lognormal, Outcome, Pareto, Recorded, Steady, World, simulate
from temper.simulate.clock import VirtualLoop
from temper.sync import SYNC
from tests.asynchrony.test_loop import weights
from tests.core.test_invariants import go, small, without_clock

LONG = SamplingParams(max_tokens=8)


def simulated(model: str, world: World, folder: Path | None = None, **fields: Any) -> Outcome:
    run = small(model, **{"steps": 4, "sampling": LONG, **fields})
    run.out = folder
    return simulate(run, world)


def test_time_passes_without_waiting() -> None:
    async def go() -> tuple[float, list[str]]:
        loop, order = asyncio.get_running_loop(), list[str]()

        async def step(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(f"{name} {loop.time():g}")

        await asyncio.gather(step("b", 7200), step("a", 3600), step("c", 7200.5))
        assert await loop.run_in_executor(None, lambda: loop.charge(100) or 5) == 5  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        return loop.time(), order

    began = time.perf_counter()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(go()) == (7300.5, ["a 3600", "b 7200", "c 7200.5"])
    assert time.perf_counter() - began < 5


def test_a_world_by_hand(toy_model: str) -> None:
    """2 groups × 3 attempts of 8 tokens each; 2 replicas of 2 slots: two waves of 8 s; a group is trained in 3 s on 2
    devices, the first while the second is played; 1 s a step; new weights take 2 s."""
    world = World(samplers=2, slots=2, token=1.0, learners=2, train=0.25, step=1.0, transfer=2.0)
    run = small(toy_model, steps=3, sampling=LONG.but(allowed=(97, 98, 99)), streamed=True)
    outcome = simulate(run, world)
    assert outcome.seconds == pytest.approx([16 + 3 + 1 + 2] * 3)
    slots, devices = 48 / (22 * 4), 7 * 2 / (22 * 2)
    assert outcome.idle == pytest.approx({"samplers": 1 - slots, "learners": 1 - devices, "judges": 1.0})


def test_judging_as_groups_land_hides_behind_the_straggler(toy_model: str) -> None:
    """One group of slow samples: the other is judged meanwhile."""
    world = World(samplers=1, slots=6, token=1.0, train=0.0, judge=2.0, tail=ByGroup())
    fields: dict[str, Any] = {"steps": 1, "streamed": True, "sampling": LONG.but(allowed=(97, 98, 99))}
    streamed, apart = (simulated(toy_model, World(**{**vars(world), "streamed": s}), **fields) for s in (True, False))
    assert streamed.total < apart.total and apart.total == pytest.approx(max(LAST) + 6 * 2.0)


LAST: list[float] = []


class ByGroup:
    """Factors 1, 2, 3, … in the order of asking."""

    def __init__(self) -> None:
        self.asked: dict[int, float] = {}

    def __call__(self, seed: int) -> float:
        factor = self.asked.setdefault(seed, 1.0 + len(self.asked))
        LAST.append(8.0 * factor)
        return factor


@pytest.mark.parametrize("sync", ["delayed", "resume"])
def test_it_is_repeatable_to_the_bit(toy_model: str, tmp_path: Path, sync: Any) -> None:
    """Times, records and weights; with stragglers, and a replica that falls."""
    world = World(samplers=2, slots=3, token=0.1, train=0.01, tail=Lognormal(1.2), failures=((1.5, 0, 3.0),))
    seen = []
    for n in range(2):
        outcome = simulated(toy_model, world, tmp_path / str(n), ahead=2, steps=6, sync=SYNC[sync])
        records = [{k: v for k, v in without_clock(r).items() if "timing" not in k} for r in outcome.history]
        seen.append((outcome.seconds, outcome.idle, outcome.counts, records, weights(tmp_path / str(n))))
    assert seen[0] == seen[1] and seen[0][2]["lost"] == 1


def test_without_staleness_it_trains_as_the_plain_loop(toy_model: str, tmp_path: Path) -> None:
    go(small(toy_model, steps=4, sampling=LONG), tmp_path / "plain")
    world = World(samplers=3, slots=2, token=1.0, tail=Pareto(1.3), failures=((3.0, 1, 10.0), (5.0, 2, 1.0)))
    outcome = simulated(toy_model, world, tmp_path / "simulated")
    assert outcome.counts["lost"] == 2
    assert weights(tmp_path / "simulated") == weights(tmp_path / "plain")


def test_staleness_hides_stragglers(toy_model: str) -> None:
    world = World(samplers=2, slots=3, token=1.0, train=0.2, tail=Lognormal(1.0))
    totals = [simulated(toy_model, world, ahead=s, steps=8, sync=SYNC["delayed"]).total for s in (0, 1, 2)]
    assert totals[0] > 1.2 * totals[1] and totals[1] >= totals[2]


def test_tails_have_mean_one() -> None:
    for tail, close in ((Lognormal(0.8), 0.03), (Pareto(2.5), 0.03), (Recorded([1, 2, 9]), 0.03), (Steady(), 0)):
        values = [tail(seed) for seed in range(20_000)]
        assert mean(values) == pytest.approx(1.0, abs=close) and tail(7) == tail(7)
    assert sorted({Recorded([1, 2, 9])(s) for s in range(100)}) == pytest.approx([0.25, 0.5, 2.25])
    share = mean(math.log(Lognormal(1.0)(s)) for s in range(5000))
    assert share == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda: Pareto(1.0), "a Pareto tail has a mean only for alpha above 1, got 1.0"),
     (lambda: Recorded([]), "recorded durations must be positive"),
     (lambda: World(samplers=0), "a world needs at least one of samplers, got 0"),
     (lambda: World(token=-1.0), "token is a time and must not be negative, got -1.0")],
)  # fmt: skip
def test_worlds_that_cannot_be(make: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()
