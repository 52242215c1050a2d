"""The reference answer behind what the policy thought: sampled thinking, imitated answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, REWARD
from temper.episode import Episode, Recorder, Turn
from temper.models.load import turn_ends
from temper.parts.reroll import opening, shortened


@dataclass
class GoldBehind:
    """Every attempt becomes its thinking (sampled), `end` (the environment's), and the task's answer (to be imitated).

    Thinking is what comes before `end`; an attempt without it thought all the way until it was cut. Columns that other
    stages wrote before are not kept, but for rewards: those are of the attempt as it was.
    """

    policy: Any
    end: str = "</think>"
    reads = ()
    writes = ()
    uses = (*CORE, BEHAVIOUR, REWARD)

    async def __call__(self, b: Batch) -> Batch:
        return Batch.of([self._rewritten(e) for e in to_episodes(b)])

    def _rewritten(self, episode: Episode) -> Episode:
        tokenizer, first, said = self.policy.tokenizer, episode.trajectories[0], episode.turns[opening(episode)]
        record = Recorder(episode.task)
        record.turns = list(episode.turns[: opening(episode)])
        record.turns.append(self._thinking(said))
        tag = record.add(tokenizer.encode(self.end, add_special_tokens=False), len(record.turns) - 1, text=self.end)
        gold = [*tokenizer.encode(str(episode.task.answer), add_special_tokens=False), turn_ends(tokenizer)[-1]]
        answer = record.add(gold, tag, author=first.role, text=str(episode.task.answer))
        record.judge(range(answer + 1), role=first.role, reward=first.reward, rewards=first.rewards, info=first.info)
        return replace(record.episode(), request=episode.request, split=episode.split)

    def _thinking(self, said: Turn) -> Turn:
        """The tokens before `end`; all of them where it is missing (the thinking was cut), but for an end token."""
        tokenizer = self.policy.tokenizer
        n = len(said.ids) - (said.ids[-1] in turn_ends(tokenizer))
        while n > 1 and self.end in tokenizer.decode(list(said.ids[:n])):
            n -= 1
        return shortened(said, max(n, 1), tokenizer)
