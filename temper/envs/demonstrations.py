"""Nothing is sampled: the episode is a demonstration, and the loop becomes supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.episode import ENV, Episode, Recorder
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

Spans = Sequence[tuple[str, Sequence[int]]]  # (author, ids): ENV, or a role whose tokens are to be learned


@dataclass
class Demonstrations:
    """Replays `spans(task, tokenizer)` as turns; what the role wrote becomes TOKEN rows without behaviour log-probs.

    longest  demonstrations of more tokens are dropped, and counted (0: no limit)
    """

    spans: Callable[[Task, Any], Spans]
    role: str = "solver"
    longest: int = 0
    samples = False

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record, turns = Recorder(task), list[int]()
        spans = self.spans(task, roles[self.role].tokenizer)
        if self.longest and sum(len(ids) for _, ids in spans) > self.longest:
            raise Drop("demonstration too long")
        for author, ids in spans:
            turns.append(record.add(ids, turns[-1] if turns else -1, author=ENV if author == ENV else self.role))
        record.judge(turns, role=self.role)
        return record.episode()
