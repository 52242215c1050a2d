"""An attempt that goes on behind something that was put there: a cue, or its own thinking made shorter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from temper import streams
from temper.backends.base import ContextFull, SamplingParams
from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, REWARD
from temper.episode import ENV, Episode, Recorder, Turn
from temper.parts.demonstrations import judged, with_columns_of
from temper.stage import Stage


async def went_on(policy: Any, episode: Episode, turns: Sequence[Turn], sampling: SamplingParams) -> Episode:
    """The play with `turns` in the place of its own, one after the other, and one more sample behind the last.

    Its reward is gone (it is to be judged again); where the context is full, nothing is sampled.
    """
    first, record = episode.trajectories[0], Recorder(episode.task)
    record.turns = [replace(t, parent=n - 1) for n, t in enumerate(turns)]
    end = len(turns) - 1
    try:
        said = await policy.sampler.sample(record.context(end), sampling)
    except ContextFull:
        said = None
    last = end if said is None else record.sampled(said, end, author=first.role)
    record.judge(range(last + 1), role=first.role, info={**first.info, "forced": True})
    return replace(record.episode(), request=episode.request, split=episode.split)


@dataclass
class Rescue:
    """Attempts that were cut off without `cue` get it, and answer behind it; they are judged again.

    The cue is the environment's: no TOKEN rows, so never a target. What was sampled keeps its log-probs. It comes right
    after the rewards: columns that other stages wrote before it are not kept.

    sampling  of the answer behind the cue
    """

    policy: Any
    judges: Sequence[Stage] = ()
    cue: str = "</think>"
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(max_tokens=32))
    seed: int = 0
    reads = ()
    writes = ()
    uses = (*CORE, BEHAVIOUR, REWARD)

    async def __call__(self, b: Batch) -> Batch:
        plays = to_episodes(b)
        lost = [n for n, e in enumerate(plays) if self.lacks(e)]
        if not lost:
            return b
        for n, made in zip(lost, await asyncio.gather(*(self._rescued(n, plays[n]) for n in lost))):
            plays[n] = made
        return with_columns_of(b, await judged(Batch.of(plays), self.judges))

    def lacks(self, episode: Episode) -> bool:
        """Whether the play ends in a turn of the policy's that was cut off, and nothing of it has the cue."""
        last = episode.turns[-1]
        cut = last.author != ENV and last.finish == "length" and len(episode.trajectories) == 1
        return cut and not any(self.cue in t.text for t in episode.turns if t.author != ENV)

    async def _rescued(self, n: int, episode: Episode) -> Episode:
        cue = Turn(tuple(self.policy.tokenizer.encode(self.cue, add_special_tokens=False)), text=self.cue)
        turns = list(episode.turns)
        turns[-1] = replace(turns[-1], finish="stop")  # it goes on
        seed = streams.key(self.seed, "rescue", episode.request, n)
        return await went_on(self.policy, episode, [*turns, cue], self.sampling.but(seed=seed))
