"""Thinking made shorter by what the end of thinking attends to."""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from temper import streams
from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, REWARD
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.parts.attention import END_ATTENTION, FromTheEnd, Layers, Spaced
from temper.parts.demonstrations import judged, with_columns_of
from temper.parts.forced import went_on
from temper.parts.gates import settled
from temper.parts.reroll import opening
from temper.stage import Stage

CUES = ("\n\n", "Wait", "Alternatively", "Hmm", "However", "But", "Therefore", "So")
FIRST_HALF = Spaced(1 << 16, 0.0, 0.5)
RATE = "solve_rate"  # in INFO: share of right attempts of the group as it was sampled
LEVELS = ("easy", "medium", "hard")


def level(rate: float) -> str:
    """easy from 0.8 on, medium from 0.3, else hard."""
    return LEVELS[0] if rate >= 0.8 else LEVELS[1] if rate >= 0.3 else LEVELS[2]


def steps_of(
    tokenizer: Any, ids: Sequence[int], cues: Sequence[str], start: str = "<think>", end: str = "</think>"
) -> list[int] | None:
    """For each id up to the end of thinking, its step (−1: of a tag); None where thinking is not opened and ended once.

    A step begins where a cue does. An id that reaches over a border belongs to the step that it begins in.
    start  empty: thinking begins with the answer
    """
    pieces = [tokenizer.decode([i]) for i in ids]
    text, at = "".join(pieces), [0, *accumulate(map(len, pieces))]
    begin, close = text.find(start) + len(start), text.find(end)
    if text.count(end) != 1 or (start and text.count(start) != 1) or begin > close:
        return None
    found = re.finditer("|".join(map(re.escape, cues)) or r"(?!)", text[:close])
    marks = [m.start() for m in found if m.start() > begin]
    spans = [(a, z) for a, z in pairwise(at) if a < close + len(end)]
    return [-1 if a < begin or z > close else bisect_right(marks, a) for a, z in spans]


def evicted(score: Tensor, target: float, uniform: float = 0.8, most: float = 0.8) -> list[int]:
    """Steps to leave out, by their scores [steps] ≥ 0: none where u > uniform, else the lowest of them.

    u = −Σ p log p / log(steps), p = score/Σ score. So many go: round(min(target·(1 − u), most)·steps); of equal scores
    the first.
    """
    if len(score) < 2 or float(score.sum()) <= 0:
        return []
    p = score.double() / score.double().sum()
    u = float(-torch.xlogy(p, p).sum() / torch.tensor(float(len(p))).log())
    share = 0.0 if u > uniform else min(target * (1 - u), most)
    lowest: list[int] = settled(p).argsort(stable=True)[: round(share * len(p))].tolist()
    return sorted(lowest)


@dataclass
class Compress:
    """Right attempts of one turn get a shorter copy that answers again; the group's size is kept, drawn from both.

    The attempt up to `end` goes through `frozen`; a step's score is the mean attention that its tokens get from the
    last token, over the layers `which` and all heads. What `evicted` names is left out of the thinking, whole steps and
    never a tag; the policy goes on behind it, and the copy is judged. Its thinking has no behaviour log-probs: losses
    need the learner's own (`logprobs.OLD`). Columns that other stages wrote before it are not kept. Draws are a
    function of (seed, request).

    target   share of steps to leave out, for easy, medium and hard groups, times 1 − u
    cues     where a step begins; start, end: the tags of thinking
    right    reward from which an attempt is right
    """

    policy: Any
    frozen: Any
    judges: Sequence[Stage]
    target: tuple[float, ...] = (0.6, 0.4, 0.2)
    uniform: float = 0.8
    cues: tuple[str, ...] = CUES
    start: str = "<think>"
    end: str = "</think>"
    right: float = 1.0
    which: Layers = FIRST_HALF
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    kind = "features"
    reads = (REWARD,)
    writes = ()
    uses = (*CORE, BEHAVIOUR)

    def __post_init__(self) -> None:
        if not self.judges:
            raise UserError("shortened attempts are judged again: give the run's judges")
        if len(self.target) != 3:
            raise UserError(f"target is a share for easy, medium and hard tasks, got {len(self.target)} numbers")
        self._seen = [0, 0, 0]  # right attempts, shortened ones, right ones of these, since `metrics` was looked at

    @property
    def metrics(self) -> dict[str, float]:
        (seen, made, right), self._seen = self._seen, [0, 0, 0]
        shares = {"compressed/share": made / seen} if seen else {}
        return shares | ({"compressed/right": right / made} if made else {})

    async def __call__(self, b: Batch) -> Batch:
        known = b[REWARD][~b[REWARD].isnan()]
        if not len(known):
            return b
        rate = float((known >= self.right).float().mean())
        plays = [_noting(e, rate) for e in to_episodes(b)]
        short = await self._shortened([e for e in plays if self._right(e)], self.target[LEVELS.index(level(rate))])
        if not short:
            return with_columns_of(b, Batch.of(plays))
        copies = to_episodes(await judged(Batch.of(short), self.judges))
        self._seen[1] += len(copies)
        self._seen[2] += sum(map(self._right, copies))
        pool = [*plays, *copies]
        draw = streams.generator(self.seed, "pool", plays[0].request).permutation(len(pool))
        return with_columns_of(b, Batch.of([pool[k] for k in draw[: len(plays)]]))

    def _right(self, episode: Episode) -> bool:
        return len(episode.trajectories) == 1 and (episode.trajectories[0].reward or 0.0) >= self.right

    async def _shortened(self, plays: Sequence[Episode], target: float) -> list[Episode]:
        """Copies of those in whose thinking something can go, not judged yet."""
        self._seen[0] += len(plays)
        steps = [self._steps(e) for e in plays]
        thinking = [(e, s) for e, s in zip(plays, steps) if s is not None]
        if not thinking:
            return []
        asked = []
        for n, ((e, s), score) in enumerate(zip(thinking, self.scores(thinking))):
            gone = evicted(score, target, self.uniform)
            if gone:
                params = self.sampling.but(seed=streams.key(self.seed, "compressed", e.request, n))
                asked.append(went_on(self.policy, e, self._without(e, s, gone), params))
        return list(await asyncio.gather(*asked))

    def _steps(self, episode: Episode) -> list[int] | None:
        sampled = [t for t in episode.turns if t.author != ENV]
        return (
            steps_of(self.policy.tokenizer, sampled[0].ids, self.cues, self.start, self.end)
            if len(sampled) == 1
            else None
        )

    def scores(self, thinking: Sequence[tuple[Episode, list[int]]]) -> list[Tensor]:
        """For each attempt with its steps, [steps] mean attention from the end of thinking."""
        b = Batch.of([_until(e, len(s)) for e, s in thinking])
        b = self.frozen.learner.read(b, {END_ATTENTION: FromTheEnd(self.which)})
        out = []
        for j, (_, s) in enumerate(thinking):
            paid = b[END_ATTENTION][b.structure.token_turn == b.turns_of(j)[-1]]
            step = torch.tensor(s)
            sums = [paid[step == k].mean() for k in range(max(s, default=-1) + 1)]
            out.append(torch.stack(sums).nan_to_num(nan=0.0) if sums else torch.zeros(0))
        return out

    def _without(self, episode: Episode, steps: list[int], gone: Sequence[int]) -> list[Any]:
        at = opening(episode)
        said = episode.turns[at]
        ids = tuple(i for i, step in zip(said.ids, steps) if step not in gone)
        text = self.policy.tokenizer.decode(list(ids))
        cut = replace(said, ids=ids, text=text, logp=None, support=None, versions=None, finish="stop")
        return [*episode.turns[:at], cut]


def _noting(episode: Episode, rate: float) -> Episode:
    noted = tuple(replace(t, info={**t.info, RATE: rate}) for t in episode.trajectories)
    return replace(episode, trajectories=noted)


def _until(episode: Episode, tokens: int) -> Episode:
    """The prompt and the first tokens behind it."""
    at, first = opening(episode), episode.trajectories[0]
    said = replace(episode.turns[at], ids=episode.turns[at].ids[:tokens], logp=None, support=None, versions=None)
    turns = (*episode.turns[:at], said)
    return replace(episode, turns=turns, trajectories=(replace(first, turns=tuple(range(at + 1))),))
