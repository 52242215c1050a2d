"""Attempts made again from inside a stage: behind another prompt, or cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from temper import streams
from temper.backends.base import SamplingParams
from temper.bridge import to_episodes
from temper.carrier import Batch
from temper.episode import ENV, Episode, Recorder, Turn


def opening(episode: Episode) -> int:
    """How many turns of the environment come before anybody speaks."""
    return next(n for n, t in enumerate(episode.turns) if t.author != ENV)


async def again(
    policy: Any, b: Batch, prompt: Sequence[int], attempts: int, sampling: SamplingParams, who: int, info: Any = None
) -> Batch:
    """`attempts` answers to `prompt`, in the place of a group's; `who` seeds them, `info` goes to each trajectory."""
    first = to_episodes(b)[0]
    role, text = first.trajectories[0].role, policy.tokenizer.decode(list(prompt))
    asked = [sampling.but(seed=streams.key(who, n)) for n in range(attempts)]
    said = await asyncio.gather(*(policy.sampler.sample(tuple(prompt), params) for params in asked))
    made = []
    for completion in said:
        record = Recorder(first.task)
        root = record.add(prompt, text=text)
        answer = record.sampled(completion, root, author=role)
        record.judge([root, answer], role=role, info=dict(info or {}))
        made.append(replace(record.episode(), request=first.request, split=first.split))
    return Batch.of(made)


def shortened(turn: Turn, tokens: int, tokenizer: Any) -> Turn:
    """The first `tokens` of a sampled turn: cut off, with the log-probs that they were sampled with."""
    ids = turn.ids[:tokens]
    return replace(
        turn, ids=ids, logp=None if turn.logp is None else turn.logp[:tokens], text=tokenizer.decode(list(ids)),
        finish="length", support=None if turn.support is None else turn.support[:tokens],
        versions=None if turn.versions is None else turn.versions[:tokens],
    )  # fmt: skip
