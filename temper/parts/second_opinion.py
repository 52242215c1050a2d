"""A second checker beside the reward: how often do they agree?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from temper import streams
from temper.carrier import Batch
from temper.columns import REQUEST, REWARD, TRAJECTORY, Column
from temper.errors import UserError
from temper.stage import Stage


@dataclass
class SecondOpinion:
    """Judges some answers of every batch again, with `judge`, and reports how often it disagrees. Writes nothing.

    judge      a stage that writes REWARD (`Rewards(…)` with another function)
    answers    how many of a batch (fewer where there are fewer)
    threshold  a reward at least this high is a pass; the two disagree where only one of them passes an answer

    Metrics: verifier/compared (answers that both judged), verifier/disagreement (share of them), verifier/only_reward
    (passed by the reward alone) and verifier/only_second.
    """

    judge: Stage
    answers: int = 32
    threshold: float = 0.99
    seed: int = 0
    kind: str = field(default="reward", init=False, repr=False)
    writes: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise UserError(f"a second opinion needs at least 1 answer, got {self.answers}")
        self.metrics: dict[str, float] = {}

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys((REWARD, REQUEST, *self.judge.reads)))

    async def __call__(self, b: Batch) -> Batch:
        n = b.size(TRAJECTORY)
        rng = streams.generator(self.seed, "second opinion", *(b[REQUEST][:1]))
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.as_tensor(rng.permutation(n)[: self.answers])] = True
        some = b.select(chosen)
        first, second = some[REWARD], (await self.judge(some))[REWARD]
        both = ~first.isnan() & ~second.isnan()
        x, y = first[both] >= self.threshold, second[both] >= self.threshold
        self.metrics = {"verifier/compared": float(both.sum())}
        if bool(both.any()):
            self.metrics |= {
                "verifier/disagreement": float((x != y).float().mean()),
                "verifier/only_reward": float((x & ~y).float().mean()),
                "verifier/only_second": float((y & ~x).float().mean()),
            }
        return b

    def close(self) -> None:
        """Close the judge."""
        close: Any = getattr(self.judge, "close", None)
        if close is not None:
            close()
