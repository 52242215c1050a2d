"""Outcome-based exploration

Paper: "Outcome-based Exploration for LLM Reasoning", 2025, arXiv 2509.06941.
Hook: reward or advantage (a bonus for answers that were seldom given).
Claim: better pass@k at every k than GRPO on competition mathematics; reinforcement alone makes answers fewer even where
training fails.

    N(x, a): how often answer a was given to task x in the whole run;  b = min(1, N^(−1/2)), 1 for a new answer
    naive  r + c·b before the baseline        mean  A + c·(b_i − mean b of the other attempts)
    con    A + c·(b − b_0), below 0 for frequent answers        batch  A − c·(1/G)·#{j: a_j = a_i}, without a history

Only what is added after the baseline can move a group that agrees: a bonus that all share cancels in it.
Reconstructed: that con and batch come after the baseline; c = 0.2 and b_0 = 0.5.
Left out: equivalence of answers by the verifier (here: the normalised final part; unreadable answers share one bucket).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, CORE, GROUP, REWARD, TASK, TOKEN, TRAJECTORY, Column
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED
from temper.rewards.checkers import final_part, normal

SLUG = "outcome-exploration"
TITLE = "Outcome-based exploration"
PAPER = "arXiv 2509.06941"
FAMILY = "objectives"
HOOKS = ("reward", "advantage")
RECIPE = "outcome-exploration"

Form = Literal["naive", "mean", "con", "batch"]


def canonical(completion: str) -> str:
    """The answer as it is counted; "" where none can be read."""
    return normal(final_part(completion))


@dataclass
class AnswerBonus:
    """Adds the bonus to the reward (naive) or to the advantage (the others). Its memory is the counts.

    correct  whether right answers (reward above 0) have it too
    """

    form: Form = "con"
    coef: float = 0.2
    constant: float = 0.5
    correct: bool = True
    answer: Callable[[str], str] = canonical
    counts: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    uses = CORE

    @property
    def reads(self) -> tuple[Column, ...]:
        return (REWARD, TASK) if self.form == "naive" else (ADVANTAGE, REWARD, TASK)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (SHAPED,) if self.form == "naive" else (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        given = [self.answer(row.completion) for row in rows_of(b)]
        bonus = self.coef * self.bonus(b, given)
        if not self.correct:
            bonus = bonus.masked_fill(b[REWARD] > 0, 0.0)
        self.metrics = {"exploration/answers": len(set(given)) / max(len(given), 1)}
        if self.form == "naive":
            return b.put(SHAPED, b[REWARD] + bonus)
        return b.put(ADVANTAGE, b[ADVANTAGE] + b.spread(bonus, TRAJECTORY, TOKEN))

    def bonus(self, b: Batch, given: list[str]) -> Tensor:
        """[trajectories] without the coefficient; counts what was given, after that."""
        owner = b.structure.group.tolist()
        keys = [(b[TASK][g].id, a) for g, a in zip(owner, given)]
        if self.form == "batch":
            same = b.by([(g, a) for g, a in zip(owner, given)], TRAJECTORY)
            size = b.spread(b.count(TRAJECTORY, GROUP), GROUP, TRAJECTORY)
            return -same.spread(same.count(torch.ones(len(given)))) / size
        seen = torch.tensor([self.counts.get(task, {}).get(a, 0) for task, a in keys], dtype=torch.float32)
        new = seen.clamp(min=1).rsqrt()
        for task, a in keys:
            mine = self.counts.setdefault(task, {})
            mine[a] = mine.get(a, 0) + 1
        if self.form == "mean":
            n = b.spread(b.count(TRAJECTORY, GROUP), GROUP, TRAJECTORY)
            others = b.spread(b.sum(new, TRAJECTORY, GROUP), GROUP, TRAJECTORY) - new
            return torch.where(n > 1, new - others / (n - 1).clamp(min=1), 0.0)
        return new - self.constant if self.form == "con" else new

    def state_dict(self) -> dict[str, Any]:
        return {"counts": {task: dict(mine) for task, mine in self.counts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = {task: dict(mine) for task, mine in state["counts"].items()}


def outcome_exploration(
    policy: Any, *, form: Form = "con", coef: float = 0.2, constant: float = 0.5, correct: bool = True,
    clip: float = 0.2, minibatches: int = 1,
) -> Method:  # fmt: skip
    """form, coef (c), constant (b_0), correct: see `AnswerBonus`."""
    bonus = AnswerBonus(form, coef, constant, correct)
    stages = [bonus, Advantage(reward=SHAPED)] if form == "naive" else [Advantage(), bonus]
    return Method(
        on_group=stages, terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean)], minibatches=minibatches
    )
