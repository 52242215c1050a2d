"""Where a simulated policy lives: a real learner and real samplers that take virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from temper.backends.base import Ack, Gone, SamplingParams, Weights
from temper.backends.local import LocalLearner
from temper.backends.own import OwnSampler
from temper.carrier import Batch
from temper.columns import TOKEN, TRAJECTORY
from temper.episode import Completion
from temper.fleet import Fleet
from temper.models import load
from temper.objective import Term
from temper.simulate.clock import settle, virtual
from temper.simulate.world import World


class Simulated:
    """`Policy.backend` of a simulation. busy: seconds of work of all "samplers", "learners" and "judges" together."""

    def __init__(self, world: World):
        self.world = world
        self.busy = dict.fromkeys(("samplers", "learners", "judges"), 0.0)
        self.fleets: list[Fleet] = []

    def open(self, policy: Any, modules: Iterable[Any]) -> tuple[Any, Any]:
        module = load.load_model(policy.model, dtype=policy.dtype, device="cpu", lora=policy.lora)
        tokenizer, modules = policy.tokenizer, list(modules)
        for m in modules:
            if hasattr(m, "build"):
                m.build(load.hidden_width(module))
        learner = _Learner(module, policy.optimizer, modules, tokenizer=tokenizer, token_budget=policy.token_budget)
        learner.within(self)
        if not policy.trainable:
            return learner, OwnSampler(module, tokenizer)
        samplers = [self.sampler(module, tokenizer) for _ in range(self.world.samplers)]
        fleet = Fleet(samplers, policy.name, slots=self.world.slots)
        fleet.supervised = bool(self.world.failures)
        self.fleets.append(fleet)
        return learner, fleet

    def release(self, policy: Any) -> None:
        self.fleets.clear()

    def sampler(self, module: Any, tokenizer: Any) -> _Sampler:
        made = _Sampler(module, tokenizer)
        made.backend = self
        return made

    async def fail(self, when: float, number: int, seconds: float) -> None:
        """A replica of every fleet is lost at some moment; another joins after so many seconds."""
        await asyncio.sleep(when)
        fleets = list(self.fleets)
        for fleet in fleets:
            for replica in [r for r in fleet.replicas if r.number == number]:
                replica.sampler.fall()
        await asyncio.sleep(seconds)
        for fleet in fleets:
            await fleet.join(self.sampler(fleet.module, fleet.tokenizer))

    async def judged(self, attempts: int) -> None:
        """The time that judging takes: on whichever of the judges is free."""
        self._free = getattr(self, "_free", None) or asyncio.Semaphore(self.world.judges)
        async with self._free:
            await asyncio.sleep(self.world.judge * attempts)
        self.busy["judges"] += self.world.judge * attempts


class _Sampler(OwnSampler):
    """The answer is computed when it is asked for, and given when it would be ready; its tokens appear evenly."""

    backend: Simulated

    def __init__(self, module: Any, tokenizer: Any):
        super().__init__(module, tokenizer)
        self._cut: dict[asyncio.Future[bool], None] = {}  # samples in flight: whether they ended by themselves
        self._down = False

    async def sample(
        self, ids: tuple[int, ...], params: SamplingParams, heard: Callable[[int], None] | None = None
    ) -> Completion:
        if self._down:
            raise Gone("the replica is lost")
        world, loop = self.backend.world, virtual()
        said = await super().sample(ids, params, heard)
        seconds = world.prompt * len(ids) + world.token * world.tail(params.seed) * len(said.ids)
        began, end = loop.time(), loop.create_future()
        self._cut[end] = None
        timer = loop.call_later(seconds, settle, end, True)
        try:
            ended = await end
        finally:
            timer.cancel()
            del self._cut[end]
            passed = loop.time() - began
            self.backend.busy["samplers"] += passed
        if self._down:
            raise Gone("the replica is lost")
        if ended or not said.ids:
            return said
        return _first(said, int(len(said.ids) * passed / seconds), self.tokenizer)

    async def abort(self) -> None:
        self._end()

    def fall(self) -> None:
        """Lost: whatever is in flight, and whatever is asked for from now on."""
        self._down = True
        self._end()

    def _end(self) -> None:
        for end in list(self._cut):
            settle(end, False)

    async def load(self, weights: Weights, version: int) -> Ack:
        await asyncio.sleep(self.backend.world.transfer)
        if self._down:
            raise Gone("the replica is lost")
        return await super().load(weights, version)


class _Learner(LocalLearner):
    """Charges the time of its passes to the virtual clock; what is only read takes a third of what is trained."""

    def within(self, backend: Simulated) -> None:
        self._backend = backend

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        self._takes(self._backend.world.step + (0.0 if self.begun.parts else self._seconds(batch)))
        return super().update(batch, terms)

    def begin(self, part: Batch, terms: list[Term]) -> None:
        self._takes(self._seconds(part))
        super().begin(part, terms)

    def read(self, batch: Batch, columns: Any) -> Batch:
        self._takes(self._seconds(batch) / 3)
        return super().read(batch, columns)

    def _seconds(self, batch: Batch) -> float:
        return self._backend.world.train * batch.size(TOKEN) / self._backend.world.learners

    def _takes(self, seconds: float) -> None:
        virtual().charge(seconds)
        self._backend.busy["learners"] += seconds * self._backend.world.learners


class Judging:
    """A stage that takes the time of judging, and changes nothing."""

    reads = writes = ()

    def __init__(self, backend: Simulated):
        self.backend = backend

    async def __call__(self, b: Batch) -> Batch:
        if self.backend.world.streamed:
            await self.backend.judged(b.size(TRAJECTORY))
        else:  # all at once, shared out among the judges
            await asyncio.gather(*(self.backend.judged(1) for _ in range(b.size(TRAJECTORY))))
        return b


def _first(said: Completion, n: int, tokenizer: Any) -> Completion:
    """What there is of an answer after its first n tokens."""
    support = None if said.support is None else said.support[:n]
    text = tokenizer.decode(said.ids[:n])
    return replace(said, ids=said.ids[:n], logp=said.logp[:n], support=support, text=text, finish="abort")
