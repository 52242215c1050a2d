"""Flows over games: plays that nobody's policy made, a memory of good ones, and what they should be worth."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from temper import streams
from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, GROUP, INFO, REWARD, TOKEN, TRAJECTORY, Column, boolean, floating
from temper.envs.flow import Flow, bared
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.parts.demonstrations import with_columns_of
from temper.parts.logprobs import REFERENCE
from temper.parts.schedules import Linear, Schedule
from temper.policy import Seat
from temper.stage import Counted
from temper.tasks.task import Task

TARGET = Column("flow_target", TRAJECTORY, floating, "β log R + log P_B; NaN = not judged, or a repetition")
EPSILON, REPLAY, BETA = Linear(0.5, 0.01, 30), Linear(0.45, 0.5, 30), Linear(1.0, 2.0, 30)  # over 30 batches
DIFFERENT = Column("flow_different", GROUP, boolean, "two different judged plays or more")


@dataclass
class Explore(Counted):
    """Plays beside the policy's own: noisy ones, ones from the memory, and better neighbours of the best.

    FoR (Yu et al. 2024, arXiv 2406.05673). Of each group: `noisy` further plays, whose actions are uniform with
    probability epsilon and which are sampled at `temperature` with probability `hot`; then the best play's first half
    is kept and the rest played at random `search` times, and what has a higher reward joins. All of them go to the
    task's memory of the `size` best different plays; with probability `replay` `draw` of those, in proportion to their
    reward, join too. Joining plays have no log-probs. Columns that other stages wrote before are not kept.

    epsilon, replay  functions of how many batches came before
    """

    policy: Any
    env: Flow = field(default_factory=Flow)
    noisy: int = 4
    epsilon: Schedule = EPSILON
    temperature: float = 2.0
    hot: float = 0.5
    search: int = 16
    replay: Schedule = REPLAY
    draw: int = 4
    size: int = 50
    seed: int = 0
    memory: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = ()
    writes = ()
    uses = (*CORE, BEHAVIOUR, REWARD)

    def __post_init__(self) -> None:
        for name, least in (("noisy", 0), ("search", 0), ("draw", 0), ("size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")

    async def __call__(self, b: Batch) -> Batch:
        groups: dict[str, list[Episode]] = {}
        for e in to_episodes(b):
            groups.setdefault(e.request, []).append(e)
        noisy = await asyncio.gather(*(self._noisy(request, own[0].task) for request, own in groups.items()))
        made, joined = list[Episode](), 0
        for (request, own), more in zip(groups.items(), noisy):  # one after another: they may share a memory
            joining = await self._joining(request, [*own, *more])
            made += [*own, *(replace(e, request=request, split=own[0].split) for e in [*more, *joining])]
            joined += len(more) + len(joining)
        self.calls += 1
        self.metrics = {"flow/joining": joined / max(len(groups), 1)}
        return with_columns_of(b, Batch.of(made))

    def _who(self, request: str, *what: object) -> int:
        return streams.key(self.seed, "flow", self.calls, request, *what)

    async def _noisy(self, request: str, task: Task) -> list[Episode]:
        plays = []
        for n in range(self.noisy):
            who = self._who(request, n)
            rng, seat = Random(who), Seat(self.env.role, self.policy, SamplingParams(), who, (request,))
            t = self.temperature if rng.random() < self.hot else 1.0
            plays.append(self.env.walk(task, seat, (), self.epsilon(self.calls), rng, temperature=t))
        return list(await asyncio.gather(*plays))

    async def _joining(self, request: str, plays: list[Episode]) -> list[Episode]:
        """Better neighbours of the best play, and some of the memory."""
        task, rng = plays[0].task, Random(self._who(request, "joining"))
        found = await self._neighbours(task, plays, rng)
        memory = self._remember(task.id, [*plays, *found])
        if memory and rng.random() < self.replay(self.calls):
            found += rng.choices(memory, [max(_reward(e), 1e-6) for e in memory], k=self.draw)
        return found

    async def _neighbours(self, task: Task, known: list[Episode], rng: Random) -> list[Episode]:
        """Plays that begin as the best one does and end better."""
        best = max(known, key=_reward)
        kept = _path(best).split(" ")
        kept = kept[: len(kept) // 2]
        seat = Seat(self.env.role, self.policy, SamplingParams(), 0, ())  # which is never asked
        tried = [await self.env.walk(task, seat, kept, 1.0, Random(rng.getrandbits(64))) for _ in range(self.search)]
        return [e for e in tried if _reward(e) > _reward(best)]

    def _remember(self, task: str, plays: list[Episode]) -> list[Episode]:
        """The memory of a task after `plays`: different ones, the best `size`."""
        kept = {_path(e): e for e in map(Episode.from_json, self.memory.get(task, []))}
        for e in plays:
            if e.trajectories[0].reward is not None:
                kept.setdefault(_path(e), replace(e, turns=tuple(t if t.author == ENV else bared(t) for t in e.turns)))
        best = sorted(kept.values(), key=lambda e: -_reward(e))[: self.size]
        self.memory[task] = [e.to_json() for e in best]
        return best

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "memory": {k: list(v) for k, v in self.memory.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls, self.memory = state["calls"], {k: list(v) for k, v in state["memory"].items()}


@dataclass
class FlowTarget(Counted):
    """TARGET = β log R + log P_B, R = peak·reward + floor + prior·Σ_a −1/log π_ref(a).

    Of equal plays in a group the first counts. R must be above 0: with a reward of 0 it is the floor.

    beta   a function of how many batches came before; prior: weight of what the reference thinks (0: not read)
    """

    beta: Schedule = BETA
    peak: float = 100.0
    floor: float = 1.0
    prior: float = 0.0
    writes = (TARGET, DIFFERENT)

    def __post_init__(self) -> None:
        if self.floor <= 0 or self.peak <= 0 or self.prior < 0:
            raise UserError("a flow needs rewards above 0: give a floor and a peak above 0, and no prior below 0")

    @property
    def reads(self) -> tuple[Column, ...]:
        return (REWARD, INFO, REFERENCE) if self.prior else (REWARD, INFO)

    async def __call__(self, b: Batch) -> Batch:
        back = [torch.nan if i is None else i.get("log_backward", 0.0) for i in b[INFO]]
        target = self.beta(self.calls) * self._reward(b).log() + torch.tensor(back, dtype=torch.float32)
        target = torch.where(repeated(b), torch.full_like(target, torch.nan), target)
        self.calls += 1
        different = b.sum((~target.isnan()).float(), TRAJECTORY, GROUP) >= 2
        return b.put(TARGET, target).put(DIFFERENT, different)

    def _reward(self, b: Batch) -> Tensor:
        r: Tensor = self.peak * b[REWARD].float().clamp(min=0) + self.floor
        if self.prior:
            surprise = (-b[REFERENCE].float()).clamp(min=1e-2).reciprocal()
            r = r + self.prior * b.sum(surprise, TOKEN, TRAJECTORY).nan_to_num(nan=0.0)
        return r


def repeated(b: Batch) -> Tensor:
    """[trajectories] whether a judged one before it in its group has the same ids."""
    seen: set[tuple[int, ...]] = set()
    out = []
    for j, (g, r) in enumerate(zip(b.structure.group.tolist(), b[REWARD].tolist())):
        key = (g, *(i for u in b.turns_of(j) for i in b.turn_ids(u)))
        out.append(key in seen)
        if r == r:
            seen.add(key)
    return torch.tensor(out, dtype=torch.bool)


def _path(e: Episode) -> str:
    return str(e.trajectories[0].info["path"])


def _reward(e: Episode) -> float:
    reward = e.trajectories[0].reward
    return -1.0 if reward is None else reward
