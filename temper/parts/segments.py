"""Credit of segments: what the policy is worth at chosen places of its answer, by answers that go on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from temper import streams
from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, REQUEST, REWARD, ROLE, SPLIT, TASK, TRAJECTORY, TURN, VERSION
from temper.envs.tree import whole_text
from temper.episode import Completion, Recorder
from temper.errors import UserError
from temper.parts.demonstrations import judged
from temper.parts.gates import settled
from temper.stage import Stage

Place = tuple[tuple[int, ...], tuple[int, ...], int]  # (context of an answer, what is there of it, whose version)


def cuts(p: Tensor, threshold: float, every: int, from_prompt: bool) -> list[int]:
    """Places before every `every`-th token whose probability p [tokens] is below `threshold`; NaN is not."""
    low = (settled(p) < threshold).nonzero().flatten().tolist()[every - 1 :: every]
    return [0, *low] if from_prompt and low[:1] != [0] else low


def telescoped(places: Sequence[int], values: Sequence[float], reward: float, tokens: int) -> Tensor:
    """A [tokens]: from each place to the next the difference of their values, to the end that to the reward; 0 before.

    Over the segments it sums up to reward − the first value. Without a place A is 0, not the reward.
    """
    a = torch.zeros(tokens)
    for start, end, v, following in zip(places, [*places, tokens][1:], values, [*values, reward][1:], strict=True):
        a[start:end] = following - v
    return a


@dataclass
class SegmentCredit:
    """ADVANTAGE = V(end of the segment) − V(its start); V: mean reward of continuations of the answer so far.

    SPO-chain (Guo et al. 2025, arXiv 2505.23564). Of an attempt in several turns the last is cut; before the first cut
    A is 0. Equal beginnings are continued once. Continuations are sampled and judged as the attempts were; those by
    weights of another version than the attempt's say nothing about it and are left out, as are unjudged ones.

    threshold, every, from_prompt  see `cuts`; continuations: of each cut; judges: the run's own; sampling: of the run
    """

    policy: Any
    judges: Sequence[Stage] = ()
    threshold: float = 0.9
    every: int = 5
    continuations: int = 9
    from_prompt: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (BEHAVIOUR, REWARD, REQUEST, ROLE, SPLIT, TASK, VERSION)
    writes = (ADVANTAGE,)

    def __post_init__(self) -> None:
        for name in ("every", "continuations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")

    async def __call__(self, b: Batch) -> Batch:
        p, reward, a = b[BEHAVIOUR].exp(), b.spread(b[REWARD], TRAJECTORY, TURN), torch.zeros(len(b[BEHAVIOUR]))
        rows, owner = ends(b)
        places = {u: cuts(p[r], self.threshold, self.every, self.from_prompt) for u, r in rows.items()}
        version = b[VERSION].tolist()
        at = {u: [(context(b, u), tuple(b.turn_ids(u)[:k]), version[u]) for k in ks] for u, ks in places.items()}
        wanted = {place: u for u in reversed(at) for place in at[u]}
        value = await self._values(b, wanted, owner)
        for u, r in rows.items():
            a[r] = telescoped(places[u], [value[x] for x in at[u]], float(reward[u]), len(a[r]))
            if bool(reward[u].isnan()):
                a[r] = torch.nan
        self.metrics = {"segments/cuts": sum(map(len, places.values())) / max(len(rows), 1)}
        return b.put(ADVANTAGE, a)

    async def _values(self, b: Batch, wanted: Mapping[Place, int], owner: Mapping[int, int]) -> dict[Place, float]:
        """V of every place; wanted: a turn that has it, owner: a trajectory of the turn. NaN: nothing is known."""
        asked = [(place, n) for place in wanted for n in range(self.continuations)]
        said = await asyncio.gather(*(self._continued(b, place, n, owner[wanted[place]]) for place, n in asked))
        if not said:
            return {}
        made = []
        for (place, _), more in zip(asked, said):
            j = owner[wanted[place]]
            g = int(b.structure.group[j])
            record = Recorder(b[TASK][g])
            turn = record.sampled(self._whole(place[1], more), record.add(place[0]), author=b[ROLE][j])
            record.judge([turn - 1, turn], role=b[ROLE][j])
            made.append(replace(record.episode(), request=b[REQUEST][g], split=b[SPLIT][g]))
        scored = await judged(Batch.of(made), self.judges)
        same = [c.version == place[2] for (place, _), c in zip(asked, said)]
        got = scored[REWARD] if REWARD in scored else torch.full((len(same),), torch.nan)
        mean = torch.where(torch.tensor(same), got, torch.nan).view(-1, self.continuations).nanmean(1)
        return dict(zip(wanted, mean.tolist()))

    async def _continued(self, b: Batch, place: Place, n: int, j: int) -> Completion:
        before, head, _ = place
        request = b[REQUEST][int(b.structure.group[j])]
        seed = streams.key(self.seed, "segments", request, n, *head)
        left = max(1, self.sampling.max_tokens - len(head))
        more: Completion = await self.policy.sampler.sample(
            (*before, *head), self.sampling.but(seed=seed, max_tokens=left)
        )
        return more

    def _whole(self, head: tuple[int, ...], more: Completion) -> Completion:
        first = Completion(head, (0.0,) * len(head), finish="length", version=more.version)
        text = whole_text([first, more] if head else [more], self.policy.tokenizer)
        return replace(more, ids=head + more.ids, logp=first.logp + more.logp, text=text, support=None)


@dataclass(frozen=True)
class MaskCertain:
    """Tokens sampled with a probability of at least `threshold` have no credit: the policy term leaves them out.

    SPO's probability mask. They leave its denominator too.
    """

    threshold: float = 0.9
    reads = (ADVANTAGE, BEHAVIOUR)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        unsure = settled(b[BEHAVIOUR].exp()) < self.threshold
        return b.put(ADVANTAGE, torch.where(unsure, b[ADVANTAGE], torch.full_like(b[ADVANTAGE], torch.nan)))


def ends(b: Batch) -> tuple[dict[int, slice], dict[int, int]]:
    """The last sampled turn of every trajectory: {turn: its TOKEN rows}, {turn: the first trajectory that has it}."""
    s = b.structure
    taken = torch.where(s.sampled, s.start.diff(), torch.zeros_like(s.parent))
    first = (taken.cumsum(0) - taken).tolist()
    owner: dict[int, int] = {}
    for j, path in enumerate(s.paths):
        mine = [u for u in path if bool(s.sampled[u])]
        if mine:
            owner.setdefault(mine[-1], j)
    return {u: slice(first[u], first[u] + int(taken[u])) for u in owner}, owner


def context(b: Batch, turn: int) -> tuple[int, ...]:
    """The ids that the model had in context before a turn."""
    ids: list[int] = []
    while (turn := int(b.structure.parent[turn])) >= 0:
        ids = b.turn_ids(turn) + ids
    return tuple(ids)
