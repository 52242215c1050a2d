"""Worked answers that join a group beside the policy's own attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, INFO, REWARD, TASK, TRAJECTORY, floating
from temper.episode import ENV, Episode, Recorder
from temper.models.load import turn_ends
from temper.stage import Stage
from temper.tasks.solutions import solution
from temper.tasks.task import Task

When = Callable[[Batch], bool]


async def judged(b: Batch, judges: Sequence[Stage]) -> Batch:
    """`b` through the stages that write its rewards, in order."""
    for judge in judges:
        b = await judge(b)
    return b


def is_demonstration(b: Batch) -> Tensor:
    """[trajectories] bool: worked answers that joined a group."""
    return torch.tensor([bool((info or {}).get("demonstration")) for info in b[INFO]], dtype=torch.bool)


def all_fail(b: Batch, at_most: float = 0.0) -> bool:
    """Whether no attempt was rewarded above `at_most` (unjudged ones do not count)."""
    return not bool((b[REWARD] > at_most).any())


@dataclass
class AddDemonstration:
    """One more trajectory in the group: a worked answer to its task, behind the attempts' own prompt.

    It comes right after the rewards: columns that other stages wrote before it are not kept. The new row has no
    behaviour log-probs and version −1 (`gates.MarkDemonstrations` marks its tokens), and goes through `judges` like any
    attempt (none: its reward stays absent). Groups without a worked answer stay as they are, and so do those where
    `when` is false.

    text     task -> the answer's text, or None (see `temper.tasks.solutions`)
    when     group -> bool, asked after the rewards (None: always)
    replace  the attempts leave the group (HPT)
    """

    policy: Any
    judges: Sequence[Stage] = ()
    text: Callable[[Task], str | None] = solution
    when: When | None = None
    replace: bool = False
    reads = (TASK,)
    writes = ()
    uses = (*CORE, BEHAVIOUR, REWARD)

    async def __call__(self, b: Batch) -> Batch:
        text = self.text(b[TASK][0])
        if text is None or (self.when is not None and not self.when(b)):
            return b
        first = b.select(torch.arange(b.size(TRAJECTORY)) == 0)
        shown = await judged(Batch.of([self._shown(to_episodes(first)[0], text)]), self.judges)
        made = Batch.of([*([] if self.replace else to_episodes(b)), *to_episodes(shown)])
        return with_columns_of(b, made)

    def _shown(self, attempt: Episode, text: str) -> Episode:
        """The demonstration as another play of the same request."""
        tokenizer, first = self.policy.tokenizer, attempt.trajectories[0]
        record, parent = Recorder(attempt.task), -1
        for turn in attempt.turns[: next(n for n, t in enumerate(attempt.turns) if t.author != ENV)]:
            parent = record.add(turn.ids, parent, text=turn.text)
        ids = [*tokenizer.encode(text, add_special_tokens=False), turn_ends(tokenizer)[-1]]
        mine = record.add(ids, parent, author=first.role, text=text)
        record.judge([*range(mine), mine], role=first.role, info={"demonstration": True})
        made = record.episode()
        return Episode(made.task, made.turns, made.trajectories, attempt.request, attempt.split)


def with_columns_of(b: Batch, made: Batch) -> Batch:
    """`made` with the number columns of `b` that nobody in it has: absent (NaN) throughout."""
    for c in b.columns:
        if c.dtype == floating and c not in made and (c.name == BEHAVIOUR.name or c.name.startswith(REWARD.name)):
            made = made.put(c, torch.full((made.size(c.level),), torch.nan))
    return made
