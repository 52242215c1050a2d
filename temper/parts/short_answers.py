"""A reward for right answers that are short, by how hard the task is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import CORE, GROUP, INFO, REWARD, TASK, TOKEN, TRAJECTORY
from temper.parts.compression import LEVELS, RATE, level
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED

SCALE = dict(zip(LEVELS, (1.0, 0.75, 0.5)))


def bonus(length: float, seen: Sequence[float]) -> float:
    """max(clip((Lmax − L)/(Lmax − Lmin), 0, 1), σ((median − L)/(0.1·median))); 0 where no length was seen."""
    if not seen:
        return 0.0
    low, high, middle = min(seen), max(seen), median(seen)
    linear = min(max((high - length) / (high - low), 0.0), 1.0) if high > low else 0.0
    return max(linear, float(torch.sigmoid(torch.tensor((middle - length) / (0.1 * middle)))))


@dataclass
class LengthReward:
    """SHAPED: 4·reward, ¼ for exactly one pair of tags, ¼ for their order, and for right answers SCALE·`bonus`.

    Lengths are compared with those of right answers to tasks of the same source and difficulty in the last `batches`
    batches, which are its memory. Difficulty is the group's share of right attempts, or what INFO notes of it (TRAAC,
    arXiv 2510.01581). start empty: thinking begins with the answer.
    """

    start: str = "<think>"
    end: str = "</think>"
    right: float = 1.0
    batches: int = 10
    history: list[dict[str, list[float]]] = field(default_factory=list)
    reads = (REWARD, INFO, TASK)
    uses = CORE
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        lengths, new, out = b.count(TOKEN, TRAJECTORY).tolist(), dict[str, list[float]](), list[float]()
        for row, length, r, rate in zip(rows_of(b), lengths, b[REWARD].tolist(), self.rates(b)):
            hard = level(float(row.noted.get(RATE, rate)))
            bucket = f"{row.task.source}/{hard}"
            score = 4 * r + self.format("".join(text for own, text in row.said if own))
            if r >= self.right:
                score += SCALE[hard] * bonus(length, [x for past in self.history for x in past.get(bucket, ())])
                new.setdefault(bucket, []).append(float(length))
            out.append(score)
        self.history = [*self.history, new][-self.batches :]
        return b.put(SHAPED, torch.tensor(out, dtype=b[REWARD].dtype))

    def rates(self, b: Batch) -> list[float]:
        """For each trajectory, its group's share of right attempts among those that are judged."""
        right = torch.where(b[REWARD].isnan(), torch.nan, (b[REWARD] >= self.right).float())
        return list(b.spread(b.mean(right, TRAJECTORY, GROUP), GROUP, TRAJECTORY).tolist())

    def format(self, text: str) -> float:
        """¼ for exactly one pair of tags, and ¼ for an end behind a start."""
        begin = text.find(self.start)
        once = text.count(self.end) == 1 and (not self.start or text.count(self.start) == 1)
        return 0.25 * once + 0.25 * (begin >= 0 and text.find(self.end, begin) >= 0)

    def state_dict(self) -> dict[str, Any]:
        return {"history": [dict(past) for past in self.history]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.history = [dict(past) for past in saved["history"]]
