"""A run: everything that `train` needs, as one value. Built by a recipe; checked before any model loads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from temper import state, streaming, streams
from temper.backends.base import Ack, SamplingParams, fingerprint
from temper.bus import Bus, Choice, Groups, InOrder, Line
from temper.carrier import Batch
from temper.clock import Clock
from temper.columns import CORE, DEALT, GROUP, LOGP, Column
from temper.episode import Episode
from temper.errors import UserError, unknown
from temper.fleet import OLDEST, Fleet
from temper.floor import Floor
from temper.ledger import UNBOUNDED, Ledger
from temper.objective import Update
from temper.policy import Policy
from temper.report import Reporter
from temper.request import Curriculum, Env, Request, plays, writes_of
from temper.stage import Stage
from temper.sync import SYNC, Sync
from temper.waits import Waits


@dataclass
class Ask:
    """How far the asking for one step is.

    requests  of the round that is going on; rounds: that are over; held, kept: groups with signal, and in the batch
    """

    requests: list[Request] = field(default_factory=list)
    rounds: int = 0
    held: int = 0
    kept: int = 0
    sealed: bool = False


@dataclass
class Run:
    """One phase of training.

    env, curriculum   how tasks are played, and which
    roles             role -> policy that plays it
    updates           what is trained, in order
    on_group          stages for every group as it lands; on_batch: for the whole batch
    probes            evaluations and other observers: called at the start, after every step, and at the end; nothing is
                      played for training meanwhile, but for those that play nothing themselves (see `Probe`)
    others            policies that play no role: references, teachers
    groups            requests that must carry signal in a step; signal: group -> bool (None: all do)
    dealt             which groups of a step make an optimiser step together: `temper.bus.Tokens(4096)`, whole groups up
                      to so many tokens (prompts included, for each attempt), or Balanced(0, 4), four of similar length
                      (None: the updates' own mini-batches). A group that a stage of the batch adds must bring DEALT
    keep_silent       keep groups without signal in the batch (they never count)
    rounds            how often a step may ask again before it gives up
    sampling          defaults for every sample
    ahead             how many updates old the weights that sampled a batch may be
    sync              how new weights reach samplers that are busy, where these have weights of their own (None: the
                      learner waits where `ahead` is 0, else each replica changes between its samples: see `syncing`)
    streamed          begin to train on groups as they land, where that is possible (`temper.streaming`)
    save_every        steps between checkpoints (0: only at the end); keep: how many are kept (0: all)
    transcripts_every steps between transcripts of a few groups
    record            steps whose batch and weights are kept for `temper replay`; "checkpoints": those after each one
    trackers          names of further writers of metrics: "tensorboard", "wandb"
    budget            {axis of the ledger: amount}: the run ends after the step that reaches one, or with `steps`
    env_timeout       seconds that an environment may take for one move (to ask for a sample, or to end); then its
                      attempt is dropped, and counted as a fault of the infrastructure (0: any)
    stall_timeout     seconds in which nothing begins or ends, after which the run ends (0: never)
    note_after        the same, after which a line on stderr says who waits for whom
    threads           of torch, where the command line does not say (0: all cores, at most 4)
    """

    env: Env
    curriculum: Curriculum
    roles: Mapping[str, Policy]
    updates: list[Update]
    on_group: list[Stage] = field(default_factory=list)
    on_batch: list[Stage] = field(default_factory=list)
    probes: list[Any] = field(default_factory=list)
    others: list[Policy] = field(default_factory=list)
    steps: int = 100
    groups: int = 32
    dealt: Choice | None = None
    signal: Callable[[Batch], bool] | None = None
    keep_silent: bool = False
    rounds: int = 10
    sampling: SamplingParams = field(default_factory=SamplingParams)
    ahead: int = 0
    sync: Sync | None = None
    streamed: bool = False
    seed: int = 0
    name: str = "run"
    out: str | Path | None = None
    resume: bool = False
    save_every: int = 0
    keep: int = 2
    transcripts_every: int = 10
    record: tuple[int, ...] | str = ()
    trackers: tuple[str, ...] = ()
    budget: Mapping[str, float] = field(default_factory=dict)
    env_timeout: float = 0.0
    stall_timeout: float = 0.0
    note_after: float = 120.0
    threads: int = 0
    argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        attempts = getattr(self.curriculum, "attempts", None)
        for ok, why in (
            (self.steps >= 0, f"steps must not be negative, got {self.steps}"),
            (self.groups >= 1, f"groups must be at least 1, got {self.groups}"),
            (self.rounds >= 1, f"rounds must be at least 1, got {self.rounds}"),
            (self.ahead >= 0, f"ahead must not be negative, got {self.ahead}"),
            (self.env_timeout >= 0, f"env_timeout must not be negative, got {self.env_timeout:g}"),
            (self.stall_timeout >= 0, f"stall_timeout must not be negative, got {self.stall_timeout:g}"),
            (self.save_every >= 0, f"save_every must not be negative, got {self.save_every}"),
            (attempts is None or attempts >= 1, f"attempts must be at least 1, got {attempts}"),
            (
                self.dealt is None or all(u.minibatches == 1 for u in self.updates),
                "groups are dealt to optimiser steps by `dealt`, or by an update's mini-batches: leave out one of them",
            ),
            (bool(self.roles), "a run needs at least one role"),
        ):
            if not ok:
                raise UserError(why)
        missing = [r for r in getattr(self.env, "roles", ()) if r not in self.roles]
        if missing:
            raise UserError(
                f"the environment has a role {missing[0]!r} that no policy plays; roles: {', '.join(self.roles)}"
            )
        self.bus = Line(Bus({"stages": ("episode",), "train": ("batch",)}))
        self.asks: dict[int, Ask] = {}
        self.asked = 0
        self.apart = False  # samplers have their own weights: they may go on while a step is trained
        self.first: dict[str, int] = {}  # version of each policy's weights before step 0
        self.waits = Waits()
        self.floor = Floor(self.waits)
        self.news = asyncio.Event()  # a group has landed
        self.counts: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.acks: dict[str, Ack] = {}
        self.ledger, self.clock = Ledger(), Clock()
        self.reporter = Reporter(self)
        self.check()

    # before anything loads -----------------------------------------------------------------------------------------

    @property
    def policies(self) -> dict[str, Policy]:
        """Every policy by name. UserError when two share a name."""
        named: dict[str, Policy] = {}
        for policy in [*self.roles.values(), *(u.policy for u in self.updates), *self.others]:
            if named.setdefault(policy.name, policy) is not policy:
                raise UserError(f"two policies are called {policy.name!r}: give each its own name")
        return named

    @property
    def syncing(self) -> Sync:
        """`sync`, or what is best for `ahead`, and every sampler can: with 0 nobody has anything to do meanwhile; else
        "delayed" holds up nobody, and each answer is of one version."""
        return self.sync or SYNC["delayed" if self.ahead else "blocking"]

    def check(self) -> None:
        """Match every read against an earlier write; UserError is one sentence."""
        written = {c.name for c in (*CORE, *writes_of(self.env))}
        if getattr(self.env, "samples", True):
            written.add(LOGP.of("behaviour").name)
        wanted: dict[str, str] = {}
        readers: list[tuple[str, tuple[Column, ...]]] = []
        for stage in (*self.on_group, *_parts(self.signal), *_parts(self.curriculum), *self.on_batch):
            reads = tuple(getattr(stage, "reads", ()))
            _must_be_written(_title(stage), reads, written)
            readers.append((_title(stage), (*reads, *getattr(stage, "uses", ()))))
            written |= {c.name for c in getattr(stage, "writes", ())}
            if getattr(stage, "wanted", False):
                wanted |= {c.name: _title(stage) for c in stage.writes}
        for update in self.updates:
            for role in update.roles or ():
                if role not in self.roles:
                    raise unknown("role", role, self.roles)
            for term in update.terms:
                _must_be_written(f"term {term.name!r}", term.reads, written)
                readers.append((term.name, (*term.reads, *getattr(term.loss, "uses", ()))))
        read = {c.name for _, columns in readers for c in columns}
        for name, writer in wanted.items():
            if name not in read:
                raise UserError(f"{writer} writes {name}, which nothing reads: drop it, or add the term that uses it")
        _ = self.policies

    def units(self) -> dict[str, Any]:
        """The arithmetic of a step in named units."""
        attempts = getattr(self.curriculum, "attempts", None)
        steps = self.steps if self.steps < UNBOUNDED else None
        sizes: dict[str, Any] = {"steps": steps, "groups per step": self.groups, "attempts per group": attempts}
        if attempts:
            sizes["trajectories per step"] = self.groups * attempts
        for u in self.updates:
            who = "" if len(self.updates) == 1 else f" ({u.policy.name})"
            sizes[f"optimiser steps per step{who}"] = u.epochs * min(u.minibatches, self.groups)
            if attempts:
                sizes[f"trajectories per optimiser step{who}"] = (
                    self.groups * attempts // min(u.minibatches, self.groups)
                )
        sizes |= {f"budget of {axis.replace('_', ' ')}": round(amount) for axis, amount in self.budget.items()}
        sizes["updates that sampling may lag behind"] = self.ahead
        return sizes

    def describe(self) -> dict[str, Any]:
        """The resolved run as plain data: every part with its fields."""
        skip = {"out", "resume", "argv"}
        found = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in skip}
        return {**found, "sync": _plain(self.syncing)}

    # life ----------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[int]:
        """Everything live; yields the step to start from (0, or the checkpoint's)."""
        watched = self.waits.watched(self.note_after, self.stall_timeout, self.env_timeout)
        with self.reporter.opened(), self.live():
            async with watched:
                start = state.restore(self, self.reporter.checkpoints) if self.resume else 0
                if self.ledger.ended and self.ledger.share(self.budget) >= 1:
                    self.steps = start
                self.first = {p.name: p.version - start for p in self.policies.values() if p.trainable}
                await self.publish([])
                await self.reporter.begin(start)
                if self.streamed and not self.ahead and (why := streaming.hindered(self)):
                    print(f"note: training begins once all of a step has landed: {why}", flush=True)
                try:
                    yield start
                finally:
                    await self.aclose()

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Models loaded; in the end everything that was opened is closed."""
        try:
            for policy in self.policies.values():
                with torch.random.fork_rng(devices=[]):  # fresh adapters and heads depend on the seed alone
                    torch.manual_seed(streams.key(self.seed, "open", policy.name))
                    policy.open(m for u in self.updates if u.policy is policy for m in u.modules)
            self._part()
            for policy in self.policies.values():
                self.ledger.watch(policy, plays=any(policy is p for p in self.roles.values()))
            gc.collect(1)  # the young: all of it would take as long as what this saves
            gc.freeze()  # what is here now stays: looked through again and again, it takes two hundredths of a step
            yield
        finally:
            gc.unfreeze()
            for part in [*self.on_group, *self.on_batch, *self.probes, self.env]:
                if hasattr(part, "close"):
                    part.close()
            for policy in self.policies.values():
                policy.close()

    def _part(self) -> None:
        """Fleets of the samplers that have weights of their own; then nobody reads a learner while it trains."""
        playing = [p for p in self.policies.values() if p.trainable and any(p is r for r in self.roles.values())]
        self.apart = bool(playing) and all(getattr(p.sampler, "apart", False) for p in playing)
        for policy in playing if self.apart else ():
            if not isinstance(policy.sampler, Fleet):
                policy.serve(Fleet([policy.sampler]))
            fleet: Any = policy.sampler
            fleet.name, fleet.sync = policy.name, self.syncing
            if fleet.sync.boundary == "token" and not all(hasattr(r.sampler, "abort") for r in fleet.replicas):
                raise UserError(
                    f"the sampler of {policy.name!r} cannot cut its samples: choose a sync other than resume"
                )
            _one_at_a_time(policy.learner)

    async def aclose(self) -> None:
        """End what parts hold in the event loop (processes, connections): those that have an async `aclose`."""
        samplers = [p.sampler for p in self.policies.values()]
        for part in [*self.on_group, *self.on_batch, *self.probes, self.env, *samplers]:
            if hasattr(part, "aclose"):
                await part.aclose()

    # rollouts ------------------------------------------------------------------------------------------------------

    async def ask(self, step: int, n: int) -> list[Request]:
        """The curriculum's next requests, opened on the bus."""
        requests = [self.numbered(r) for r in self.curriculum.next(n)]
        if requests:
            rows = {r.id: self.rows(r) for r in requests}
            room = (self.ahead + 1) * self.groups * (self.rounds if self.keep_silent else 1)
            await self.bus.open(f"open {requests[0].id}", step, rows, room)
        return requests

    async def take(self, step: int, gathering: asyncio.Future[None]) -> Batch:
        with self.waits.on(f"training waits for the groups of step {step + 1}"):
            return await self._take(step, gathering)

    async def _take(self, step: int, gathering: asyncio.Future[None]) -> Batch:
        """The groups of a step, in the order of asking, once they are gathered; they leave the bus.

        Where training may begin before (`temper.streaming`), it does.
        """
        taken: list[dict[str, Any]] = []
        begins = streaming.streams(self)
        while begins:
            part = InOrder(-(-self.groups // streaming.PARTS))
            taken += (some := await self.bus.take(f"begin {step} {len(taken)}", "train", step, part))
            if some:
                await self._begin(some)
            elif gathering.done():
                break
            else:
                self.news.clear()
                await first(gathering, self.news.wait())
        await gathering
        rest = await self._deal(step) if self.dealt else await self.bus.take(f"train {step}", "train", step, Groups())
        if begins and rest:
            await self._begin(rest)
        taken += rest
        await self.bus.clear(step)
        del self.asks[step]
        return Batch.concat([row["batch"] for row in taken])

    async def _deal(self, step: int) -> list[dict[str, Any]]:
        """All groups of a step, marked with the optimiser step that each is dealt to."""
        taken: list[dict[str, Any]] = []
        steps, replicas = 0, range(getattr(self.dealt, "replicas", 1))
        while True:
            op = f"train {step} {len(taken)}"
            shares = [await self.bus.take(op, "train", step, self.dealt, r) for r in replicas]
            if not any(shares):
                return taken
            for rows in filter(None, shares):
                for row in rows:
                    mark = torch.full((row["batch"].size(GROUP),), steps)
                    taken.append({**row, "batch": row["batch"].put(DEALT, mark)})
                steps += 1

    async def _begin(self, rows: list[dict[str, Any]]) -> None:
        part, [update] = Batch.concat([row["batch"] for row in rows]), self.updates
        with self.timed("update"):
            await asyncio.get_running_loop().run_in_executor(None, update.policy.learner.begin, part, update.terms)

    def restore_asks(self, saved: Mapping[int, Mapping[str, Any]]) -> None:
        self.asks = {step: Ask(**ask) for step, ask in saved.items()}

    def rows(self, request: Request) -> list[str]:
        """The bus's names of the attempts at a request."""
        return [f"{request.id}/{n}" for n in range(len(request.overrides()))]

    def serves(self, step: int) -> None:
        """What this task and its children sample is for a step: how old the weights may be."""
        OLDEST.set({name: first + step - self.ahead for name, first in self.first.items()})

    def recent(self, episode: Episode) -> bool:
        """Whether weights that are not too old for the step sampled every token of it."""
        oldest = OLDEST.get() or {}
        for turn in episode.turns if self.apart else ():
            policy = self.roles.get(turn.author)
            if policy is not None and turn.logp and min(turn.versions or (turn.version,)) < oldest.get(policy.name, 0):
                return False
        return True

    def numbered(self, request: Request) -> Request:
        """The request with an id that is unique in the run."""
        self.asked += 1
        return replace(request, id=f"{self.asked}:{request.task.id}")

    async def apply(self, stage: Stage, batch: Batch) -> Batch:
        with self.timed(getattr(stage, "kind", "stages")), self.waits.on(f"a batch waits for stage {_title(stage)}"):
            made = await stage(batch)
        if not isinstance(made, Batch):
            raise UserError(f"stage {_title(stage)} returned {type(made).__name__}: it must return a batch, b.put(…)")
        return made

    async def trained(self, update: Update, batch: Batch, step: int) -> dict[str, float]:
        """One update; in a thread where samplers may go on meanwhile."""
        if not self.apart:
            return self.update(update, batch, step)
        with self.waits.on(f"step {step + 1} waits for the update of {update.policy.name!r}"):
            return await asyncio.get_running_loop().run_in_executor(None, self.update, update, batch, step)

    def update(self, update: Update, batch: Batch, step: int) -> dict[str, float]:
        with self.timed("update"):
            return update(batch, seed=self.seed * 1_000_003 + step)

    async def publish(self, metrics: list[dict[str, float]]) -> None:
        """Push the weights; refuse to go on unless every sampler acknowledges exactly what its learner has."""
        with self.timed("sync"):
            for policy in self.policies.values():
                if not policy.trainable:
                    continue
                policy.version += bool(metrics)
                weights = policy.learner.weights()
                with self.waits.on(f"the run waits for samplers of {policy.name!r} to take version {policy.version}"):
                    ack = await policy.sampler.load(weights, policy.version)
                if ack.version != policy.version or ack.fingerprint != fingerprint(weights.items()):
                    raise UserError(
                        f"the sampler of {policy.name!r} serves version {ack.version} ({ack.fingerprint}), "
                        f"not version {policy.version} of its learner: new weights do not reach it"
                    )
                self.acks[policy.name] = ack

    async def report(self, step: int, batch: Batch, metrics: list[dict[str, float]]) -> None:
        """One line, one record, probes, transcripts, checkpoint."""
        if self.ledger.share(self.budget) >= 1:
            self.steps, self.ledger.ended = step + 1, True
        async with self.floor.quiet(*(("episodes", "stages") if self._probed(step + 1) else ())):
            await self.reporter.step(step + 1, batch, metrics)
        for policy in self.policies.values():  # what a sampler has stored is not in the checkpoint
            if hasattr(policy.sampler, "forget"):
                policy.sampler.forget()
        last = step + 1 == self.steps
        if self.out is not None and (last or (self.save_every and (step + 1) % self.save_every == 0)):
            async with self.floor.quiet("stages"):
                self.save(step + 1)

    def _probed(self, step: int) -> bool:
        """Whether a probe looks at the run now: what it plays must not meet what is played for training."""
        return any(plays(p, step, self.steps) for p in self.probes)

    def save(self, step: int) -> Path:
        return state.save(self, self.reporter.checkpoints, step)

    async def finish(self) -> dict[str, Any]:
        return await self.reporter.finish()

    # small services ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Wall seconds of a stage of the step (stages inside another are counted in both)."""
        began = time.perf_counter()
        try:
            with self.clock.on(stage):
                yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def count(self, what: str, n: float) -> None:
        self.counts[what] = self.counts.get(what, 0.0) + n

    def excuse(self) -> str:
        """What was dropped in this step, for an error message."""
        dropped = {k.removeprefix("dropped/"): int(v) for k, v in self.counts.items() if k.startswith("dropped/")}
        silent = int(self.counts.get("groups_without_signal", 0))
        parts = [f"{n} attempts dropped ({why})" for why, n in dropped.items()]
        parts += [f"{silent} groups whose attempts all scored the same"] if silent else []
        return f": {', '.join(parts)}" if parts else ""


async def first(*waiting: Any) -> None:
    """Until one of them is over; coroutines that are not are cancelled."""
    tasks = {asyncio.ensure_future(w): w for w in waiting}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, w in tasks.items():
        if task is not w and not task.done():
            task.cancel()


def _one_at_a_time(learner: Any) -> None:
    """Updates run in a thread: a reading waits until the weights are whole again."""
    lock = threading.RLock()

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with lock:
                return method(*args, **options)

        return call

    for name in ("update", "read", "gradient_norms"):
        if hasattr(learner, name):
            setattr(learner, name, guarded(getattr(learner, name)))


def _parts(x: Any) -> tuple[Any, ...]:
    return () if x is None else (x,)


def _title(part: Any) -> str:
    return getattr(part, "name", None) or getattr(part, "__name__", None) or type(part).__name__


def _must_be_written(who: str, reads: tuple[Column, ...], written: set[str]) -> None:
    for column in reads:
        if column.name not in written:
            raise UserError(f"{who} reads {column.name}, which nothing before it writes")


def _plain(x: Any) -> Any:
    """Parts as plain data for run.json: dataclasses with their class and fields, functions by name."""
    if is_dataclass(x) and not isinstance(x, type):
        inner = {f.name: _plain(getattr(x, f.name)) for f in fields(x) if f.repr}
        return {"class": f"{type(x).__module__}.{type(x).__qualname__}", **inner}
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, (str, int, float, bool)) or x is None:
        return x
    if isinstance(x, (list, tuple)) and len(x) <= 64:
        return [_plain(v) for v in x]
    if callable(x) and hasattr(x, "__qualname__"):
        return f"{x.__module__}.{x.__qualname__}"
    if hasattr(x, "__len__"):
        return {"class": f"{type(x).__module__}.{type(x).__qualname__}", "length": len(x)}
    return str(x) if isinstance(x, Path) else {"class": f"{type(x).__module__}.{type(x).__qualname__}"}
