"""Train a run in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from temper.carrier import Batch
from temper.loop import train
from temper.run import Run
from temper.simulate.backend import Judging, Simulated
from temper.simulate.clock import VirtualLoop, virtual
from temper.simulate.world import World


@dataclass
class Outcome:
    """What a simulation showed.

    seconds  virtual seconds of each step
    idle     share of the time that "samplers" (their slots), "learners" and "judges" had nothing to do
    history  the run's records
    counts   samples that were cut and went on ("resumed"), replicas that fell ("lost"), episodes that were played again
             because theirs did ("torn")
    """

    seconds: list[float] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.seconds)


def simulate(run: Run, world: World) -> Outcome:
    """Train `run` to its end as it would be in this world; its policies are real, and so is what it leaves behind.

    The policies that play and are trained get samplers of their own. Rewards that really run take no virtual time.
    """
    backend, outcome = Simulated(world), Outcome()
    for policy in run.policies.values():
        if policy.trainable and any(policy is p for p in run.roles.values()):
            policy.backend = backend
    run.on_group = [_Real(s) if getattr(s, "kind", "") == "reward" else s for s in run.on_group]
    if world.judge:
        (run.on_group if world.streamed else run.on_batch).insert(0, Judging(backend))
    run.probes.append(_Watch(outcome, backend))
    run.note_after = 0.0  # time passes in leaps

    async def go() -> None:
        failures = [asyncio.ensure_future(backend.fail(*f)) for f in world.failures]
        try:
            await train(run)
        finally:
            for f in failures:
                f.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(go())
    outcome.history = [r for r in run.reporter.history if r["step"]]
    size = {"samplers": world.samplers * world.slots, "learners": world.learners, "judges": world.judges}
    outcome.idle = {who: 1 - seconds / (outcome.total * size[who]) for who, seconds in backend.busy.items()}
    return outcome


class _Watch:
    """A probe that notes when each step was over."""

    plays = False

    def __init__(self, outcome: Outcome, backend: Simulated):
        self.outcome, self.backend, self.since = outcome, backend, 0.0

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        now, self.since = virtual().time() - self.since, virtual().time()
        if step == 0:
            return {}
        self.outcome.seconds.append(now)
        for what in ("resumed", "lost", "torn"):
            self.outcome.counts[what] = sum(fleet.counts[what] for fleet in self.backend.fleets)
        return {"simulated/seconds": now}


class _Real:
    """A stage that really takes a while: virtual time stands still."""

    def __init__(self, stage: Any):
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stage"], name)

    async def __call__(self, b: Batch) -> Batch:
        with virtual().standing_still():
            made: Batch = await self._stage(b)
        return made
