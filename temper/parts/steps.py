"""Groups of their own for a step: what could have been said instead, from the same place of an episode."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from temper import streams
from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import AUTHOR, EPISODE, INFO, REQUEST, SPLIT, TASK, TRAJECTORY, TURN_TEXT
from temper.envs.backoff import before
from temper.envs.chat import cut
from temper.envs.tools import ToolUse, noted
from temper.episode import ENV, Completion, Episode, Recorder
from temper.tools.calls import parse

STEP = "step"  # `Trajectory.group` of a step's group


@dataclass
class StepGroup:
    """Where a call failed, adds a side group: `attempts` continuations from before it, rewarded 1 when their call runs.

    The first failed call of one attempt, drawn from those with one, is taken back, and `back` tokens before it, by
    ids; the prompt stays, and an observation stays whole where the cut would end within it. What is left is context
    only: a turn of the environment, without TOKEN rows. A continuation ends with its first call; without one it has no
    reward (NaN). Draws are a function of (seed, request).

    THOR (Chang et al. 2025, arXiv 2509.13761, step level).
    env  whose calls and tools they are; sampling: of the continuations
    """

    policy: Any
    env: ToolUse
    attempts: int = 16
    back: int = 100
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    reads = (INFO, AUTHOR, TURN_TEXT, TASK, REQUEST, SPLIT, EPISODE)
    writes = ()

    async def __call__(self, b: Batch) -> Batch:
        failed = [(j, c["turn"]) for j, info in enumerate(b[INFO]) if (c := first_failure(info or {})) is not None]
        if not failed:
            return b
        who = streams.key(self.seed, "step", b[REQUEST][0])
        episode = await self._branch(b, self.prefix(b, *Random(who).choice(failed)), who)
        side = Batch.of([episode])
        number = int(b[EPISODE].max()) + 1
        return Batch.concat([b, side.put(EPISODE, torch.full((side.size(TRAJECTORY),), number))])

    def prefix(self, b: Batch, trajectory: int, turn: int) -> tuple[int, ...]:
        """The ids before the first call of the policy's `turn`-th turn, less `back`."""
        u = [u for u in b.turns_of(trajectory) if b[AUTHOR][u] != ENV][turn]
        ids = b.turn_ids(u)
        ids = ids[: before(ids, self.env.start(b[TURN_TEXT][u]), 0, self.policy.tokenizer)]
        spans = [(b[AUTHOR][u], ids)]
        while (u := int(b.structure.parent[u])) >= 0:
            spans.insert(0, (b[AUTHOR][u], b.turn_ids(u)))
        return cut_back(spans, self.back)

    async def _branch(self, b: Batch, prefix: tuple[int, ...], who: int) -> Episode:
        """All continuations of a prefix, as a play of their own."""
        asked = [self.sampling.but(seed=streams.key(who, n), **self.env.stop()) for n in range(self.attempts)]
        said = await asyncio.gather(*(self.policy.sampler.sample(prefix, params) for params in asked))
        record = Recorder(b[TASK][0])
        root = record.add(prefix, text=self.policy.tokenizer.decode(prefix))
        tried = await asyncio.gather(*(self._try(c) for c in said))
        for completion, calls in tried:
            turn = record.sampled(completion, root, author=self.env.role)
            ran = float(all(c["outcome"] == "ok" for c in calls)) if calls else None
            if any(c["outcome"] == "fault" for c in calls):
                ran = None
            record.judge([root, turn], role=self.env.role, reward=ran, group=STEP, info={"calls": calls})
        e = record.episode()
        return Episode(e.task, e.turns, e.trajectories, b[REQUEST][0], b[SPLIT][0])

    async def _try(self, said: Completion) -> tuple[Completion, list[dict[str, Any]]]:
        """A continuation up to its first call, and what came of that."""
        said = cut(said, self.env.end(said.text), self.policy.tokenizer)
        async with self.env.toolbox.episode() as box:
            results = await self.env.run(box, said.text)
        return said, [noted(0, c, r) for c, r in zip(parse(said.text, self.env.format), results)]


def first_failure(info: Any) -> Any:
    """The first call that a trajectory's info notes which did not end "ok"."""
    return next((c for c in info.get("calls", ()) if c["outcome"] != "ok"), None)


def cut_back(spans: list[tuple[str, list[int]]], back: int) -> tuple[int, ...]:
    """The ids of (author, ids) without the last `back`; the first span, the prompt, stays."""
    kept = list(spans)
    while back and len(kept) > 1:
        author, ids = kept.pop()
        if back < len(ids) or (author == ENV and back == len(ids)):
            kept.append((author, ids if author == ENV else ids[: len(ids) - back]))
            break
        back -= len(ids)
    return tuple(i for _, ids in kept for i in ids)
