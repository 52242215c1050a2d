"""Samplers of one policy that have their own copies of its weights, behind one `sample` and one `load`.

    sample ──▶ queue ──▶ the free replica with the fewest samples whose weights are new enough
    load   ──▶ staged weights ──▶ each replica: hold, wait for its boundary (temper.sync), load, go on

Replicas may join (with the newest weights, before they serve anything) and leave (when they have ended their samples)
while the run goes on. A sample whose replica is lost is asked for again elsewhere: its tokens depend on its seed alone.
An episode that is to be of one version (`Sync` "episode") stays on its replica; where that is lost it goes on at one of
the same version, and where there is none it is torn: played again from its beginning (`temper.play`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from temper.backends.base import Ack, Gone, Sampler, SamplingParams, Weights, fingerprint
from temper.episode import Completion
from temper.errors import UserError
from temper.sync import Sync

PATIENCE = 1800.0  # seconds that a sample waits for a replica, and a replica for its samples
OLDEST: ContextVar[Mapping[str, int] | None] = ContextVar("oldest", default=None)  # by policy; None: the newest only
_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)
_BEGUN = itertools.count()
_NEVER = -1


class Torn(Exception):
    """An episode's replica is lost, and no other serves the version that it began with: it must be played again."""


class Visit:
    """One episode, to the fleets that serve it. number: its place in the order of beginning; versions: by policy."""

    def __init__(self) -> None:
        self.number = next(_BEGUN)
        self.versions: dict[str, int] = {}
        self.torn = False
        self.ended: list[Callable[[], None]] = []


@contextlib.contextmanager
def visiting() -> Iterator[Visit]:
    """What is sampled inside belongs to one episode."""
    visit = Visit()
    token = _VISIT.set(visit)
    try:
        yield visit
    finally:
        _VISIT.reset(token)
        for leave in visit.ended:
            leave()


Purpose = tuple[Mapping[str, int] | None, Visit | None]


def purpose() -> Purpose:
    """What is sampled here is for: how old the weights may be, and the episode that it belongs to."""
    return OLDEST.get(), _VISIT.get()


@contextlib.contextmanager
def serving(what: Purpose) -> Iterator[None]:
    """What is sampled inside is for `what`, whoever asks: an agent's server has tasks, and a context, of its own."""
    oldest, visit = OLDEST.set(what[0]), _VISIT.set(what[1])
    try:
        yield
    finally:
        OLDEST.reset(oldest)
        _VISIT.reset(visit)


@dataclass(eq=False)
class Replica:
    """One sampler: the version that it serves, its samples in flight, and the episodes that began on it.

    held    it is to change its weights, and takes nothing new
    before  while it is held until its episodes end, those that began before this one may still come to it: of episodes
            that wait for one another's replicas, the oldest can always go on
    """

    sampler: Any
    number: int
    version: int = -1
    flying: int = 0
    held: bool = False
    leaving: bool = False
    before: int = _NEVER
    visits: set[Visit] = field(default_factory=set)

    def hold(self) -> None:
        self.held, self.before = True, next(_BEGUN)


@dataclass(eq=False)
class _Waiter:
    oldest: int
    visit: Visit | None
    future: asyncio.Future[Replica]


@dataclass(frozen=True)
class Staged:
    weights: Weights
    version: int
    fingerprint: str


class Fleet:
    """name: of the policy; sync: how new weights reach replicas; slots: samples that a replica takes at once (0: all).

    counts: samples cut and resumed, replicas lost, episodes torn; `metrics` are those since they were last looked at.
    """

    apart = True
    supervised = False  # somebody else brings lost replicas back

    def __init__(self, samplers: Sequence[Sampler], name: str = "policy", sync: Sync | None = None, slots: int = 0):
        self.name, self.sync, self.slots = name, sync or Sync(), slots
        self.replicas = [Replica(s, i) for i, s in enumerate(samplers)]
        self._made = len(self.replicas)
        self._staged: Staged | None = None
        self._waiting: deque[_Waiter] = deque()
        self._changing: dict[Replica, asyncio.Task[None]] = {}
        self._turns: asyncio.Semaphore | None = None
        self._watchers: list[asyncio.Future[None]] = []
        self.counts = {"resumed": 0, "lost": 0, "torn": 0}
        self._told = dict(self.counts)

    def __getattr__(self, name: str) -> Any:
        """What else samplers have (`context`, `vocabulary`, …) is the first replica's."""
        return getattr(self.__dict__["replicas"][0].sampler, name)

    # samples -------------------------------------------------------------------------------------------------------

    async def sample(self, ids: tuple[int, ...], params: SamplingParams, **options: Any) -> Completion:
        """Continue `ids` on one replica; where it is cut, go on from there under the weights that are served then."""
        done: Completion | None = None
        while True:
            begun = done.ids if done is not None else ()
            try:
                async with self._place() as replica:
                    said = await replica.sampler.sample((*ids, *begun), params.but(begun=len(begun)), **options)
            except Gone:  # its answer, if there was one, counts for nothing: nobody has seen it
                self._lose(replica)
                continue
            done = said if done is None else done.then(said)
            if said.finish != "abort":
                return done
            self.counts["resumed"] += 1

    @contextlib.asynccontextmanager
    async def _place(self) -> Any:
        """A replica, for one sample."""
        if not self.replicas and not self.supervised:
            raise self._none()
        needs, visit = purpose()
        newest = self._staged.version if self._staged else -1
        oldest = newest if needs is None else needs.get(self.name, newest)
        waiter = _Waiter(oldest, visit, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._dispatch()
        try:
            replica = await self._patiently(waiter.future, lambda: self._why(waiter))
        except BaseException:
            future = waiter.future
            if future.done() and not future.cancelled() and future.exception() is None:
                self._land(future.result())
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)
        try:
            yield replica
        finally:
            self._land(replica)

    def _dispatch(self) -> None:
        """Give waiting samples, in order, to replicas that may take them."""
        for waiter in list(self._waiting):
            free = [r for r in self.replicas if self._takes(r, waiter)]
            if free and not waiter.future.done():
                chosen = min(free, key=lambda r: (r.flying, r.number))
                chosen.flying += 1
                self._waiting.remove(waiter)
                self._visited(chosen, waiter.visit)
                waiter.future.set_result(chosen)
            elif not waiter.future.done() and self._is_torn(waiter.visit):
                waiter.future.set_exception(Torn(f"the replica of {self.name!r} that an episode began on is lost"))
            elif self.slots and all(r.flying >= self.slots for r in self.replicas):
                return

    def _takes(self, r: Replica, waiter: _Waiter) -> bool:
        if (self.slots and r.flying >= self.slots) or r.version < waiter.oldest:
            return False
        if self.sync.boundary == "episode" and waiter.visit is not None:
            return self._keeps(r, waiter.visit)
        return not r.held and not r.leaving

    def _keeps(self, r: Replica, visit: Visit) -> bool:
        """Whether an episode that is sampled here is of one version, and does not hold up for ever its change."""
        if visit in r.visits:
            return True
        if r.leaving or (r.held and visit.number > r.before) or any(visit in o.visits for o in self.replicas):
            return False
        return visit.versions.get(self.name, r.version) == r.version

    def _visited(self, replica: Replica, visit: Visit | None) -> None:
        if self.sync.boundary == "episode" and visit is not None and visit not in replica.visits:
            replica.visits.add(visit)
            visit.versions[self.name] = replica.version
            visit.ended.append(lambda: self._leave(replica, visit))

    def _is_torn(self, visit: Visit | None) -> bool:
        """Whether an episode that had begun can go on nowhere."""
        if visit is None or self.name not in visit.versions or any(self._keeps(r, visit) for r in self.replicas):
            return False
        self.counts["torn"] += not visit.torn
        visit.torn = True
        return True

    def _land(self, replica: Replica) -> None:
        replica.flying -= 1
        self._stir()

    def _leave(self, replica: Replica, visit: Visit) -> None:
        replica.visits.discard(visit)
        self._stir()

    def _stir(self) -> None:
        """Something changed: who waits looks again."""
        self._dispatch()
        watchers, self._watchers = self._watchers, []
        for w in watchers:
            if not w.done():
                w.set_result(None)

    # weights -------------------------------------------------------------------------------------------------------

    async def load(self, weights: Weights, version: int) -> Ack:
        """Stage a copy of the weights and have every replica change to it, as `sync` says."""
        self._staged = self._stage(weights, version)
        first = all(r.version < 0 for r in self.replicas)
        self.check()
        changing = [r for r in self.replicas if not r.leaving]
        for r in changing if self.sync.wait else ():
            r.hold()
        tasks = [self._change(r) for r in changing]
        if self.sync.wait or first:
            try:
                await asyncio.gather(*tasks)
            finally:
                for r in changing:
                    r.held = False
                self._stir()
        return Ack(version, self._staged.fingerprint)

    def _stage(self, weights: Weights, version: int) -> Staged:
        """What every replica is to load: it does not change when the learner trains on."""
        copied = {n: w.detach().to("cpu", copy=True) for n, w in weights.items()}
        return Staged(copied, version, fingerprint(copied.items()))

    def check(self) -> None:
        """Raise what a replica's change of weights failed with."""
        for task in list(self._changing.values()):
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]

    def _change(self, replica: Replica) -> asyncio.Task[None]:
        going = self._changing.get(replica)
        if going is None or going.done():
            going = self._changing[replica] = asyncio.ensure_future(self._renew(replica))
            going.add_done_callback(self._changed)
        return going

    def _changed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def _renew(self, replica: Replica) -> None:
        """Bring one replica to the newest weights."""
        self._turns = self._turns or asyncio.Semaphore(self.sync.at_once or 1_000_000)
        async with self._turns:
            while self._staged is not None and replica.version < self._staged.version and replica in self.replicas:
                replica.hold()
                try:
                    await self._boundary(replica)
                    replica.before = _NEVER
                    staged = self._staged
                    ack = await replica.sampler.load(staged.weights, staged.version)
                    if (ack.version, ack.fingerprint) != (staged.version, staged.fingerprint):
                        raise UserError(
                            f"replica {replica.number} of {self.name!r} serves version {ack.version} "
                            f"({ack.fingerprint}), not {staged.version} of its learner: new weights do not reach it"
                        )
                    replica.version = staged.version
                except Gone:
                    self._lose(replica)
                finally:
                    replica.held = self.sync.wait and replica.held
                    self._stir()

    async def _boundary(self, replica: Replica) -> None:
        """Until the replica may change its weights."""
        episodes = self.sync.boundary == "episode"
        while replica.flying or (episodes and replica.visits):
            if self.sync.boundary == "token":
                await replica.sampler.abort()
            if replica.flying or (episodes and replica.visits):
                await self._patiently(self._stirred(), lambda: self._busy(replica))

    # membership ----------------------------------------------------------------------------------------------------

    async def join(self, sampler: Sampler) -> Replica:
        """A further replica: it serves nothing before it has the newest weights."""
        replica = Replica(sampler, self._made, held=True)
        self._made += 1
        self.replicas.append(replica)
        if self._staged is not None:
            await self._change(replica)
        replica.held = False
        self._stir()
        return replica

    async def leave(self, number: int) -> None:
        """A replica gets nothing new, ends what it has, and is gone. UserError for the last one that stays."""
        replica = self._retire(number)
        while replica in self.replicas and (replica.flying or replica.visits):
            await self._patiently(self._stirred(), lambda: self._busy(replica))
        if replica in self.replicas:  # it may have fallen meanwhile
            self.replicas.remove(replica)
        self._stir()

    def _retire(self, number: int) -> Replica:
        staying = {r.number: r for r in self.replicas if not r.leaving}
        if number not in staying or len(staying) == 1:
            known = ", ".join(map(str, staying))
            raise UserError(f"replica {number} of {self.name!r} cannot leave; there are: {known}")
        staying[number].leaving = True
        return staying[number]

    def _lose(self, replica: Replica) -> None:
        if replica in self.replicas:
            self.counts["lost"] += 1
            self.replicas.remove(replica)
        if not self.replicas and not self.supervised:
            self._fail(self._none())
        self._stir()

    def _none(self) -> UserError:
        return UserError(f"every replica of {self.name!r} is lost: nothing can be sampled")

    def _fail(self, error: BaseException) -> None:
        for waiter in list(self._waiting):
            if not waiter.future.done():
                waiter.future.set_exception(error)

    async def aclose(self) -> None:
        """End what goes on in the background."""
        for task in self._changing.values():
            task.cancel()
        await asyncio.gather(*self._changing.values(), return_exceptions=True)

    def close(self) -> None:
        for replica in self.replicas:
            if hasattr(replica.sampler, "close"):
                replica.sampler.close()

    @property
    def metrics(self) -> dict[str, float]:
        found = {f"sampler/{self.name}/{what}": float(n - self._told[what]) for what, n in self.counts.items()}
        self._told = dict(self.counts)
        return found

    # waiting -------------------------------------------------------------------------------------------------------

    def _stirred(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(future)
        return future

    async def _patiently(self, future: asyncio.Future[Any], why: Callable[[], str]) -> Any:
        if future.done():
            return future.result()
        try:
            return await asyncio.wait_for(future, PATIENCE)
        except TimeoutError:
            raise UserError(f"{why()} (for {PATIENCE:g} s)") from None

    def _why(self, waiter: _Waiter) -> str:
        served = "; ".join(
            f"replica {r.number} serves {r.version}{', changes its weights' if r.held else ''}, {r.flying} in flight"
            for r in self.replicas
        )
        return f"a sample of {self.name!r} waits for weights of version {waiter.oldest} or newer: {served}"

    def _busy(self, replica: Replica) -> str:
        what = "leaves" if replica.leaving else "changes its weights"
        return f"replica {replica.number} of {self.name!r} has {replica.flying} samples to end before it {what}"
