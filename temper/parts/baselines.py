"""Baselines that live longer than a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, INFO, REWARD, ROLE, TASK, TOKEN, TRAJECTORY, TURN, Column
from temper.errors import UserError


@dataclass
class RoleBaseline:
    """Writes ADVANTAGE: A = (R − b)·γ^k, b a moving average of the rewards of this role in this game.

    Role-conditioned advantage estimation (SPIRAL, arXiv 2506.24119). b is used before it is updated:
    b ← decay·b + (1 − decay)·R, from b = 0, trajectory after trajectory in the order of the batch. k counts the turns
    that the role took after this one in its trajectory. No standard deviation, no group. A trajectory without a reward
    changes nothing and has A = NaN. For `on_batch`: there the order is that of asking, whatever lands first.

    decay      of the moving average, in [0, 1)
    gamma      γ
    by_role    False: one baseline for all roles of a game, for comparison
    keep_zero  False: rows with A = 0 leave the loss, its denominators too (A = NaN)

    The game is info["game"], or else the task's source. UserError for a decay outside [0, 1).
    """

    decay: float = 0.95
    gamma: float = 1.0
    by_role: bool = True
    keep_zero: bool = False
    reward: Column = REWARD
    writes = (ADVANTAGE,)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"the decay of a baseline must be in [0, 1), got {self.decay}")
        self.baselines: dict[str, dict[str, float]] = {}  # game → role → b
        self._gaps: dict[str, list[float]] = {}

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, ROLE, INFO, TASK)

    @property
    def metrics(self) -> dict[str, float]:
        """baseline/GAME/ROLE, and advantage/ROLE: the mean of R − b in the last batch."""
        found = {f"baseline/{g}/{r}": b for g, roles in self.baselines.items() for r, b in roles.items()}
        return found | {f"advantage/{r}": sum(x) / len(x) for r, x in self._gaps.items()}

    async def __call__(self, b: Batch) -> Batch:
        self._gaps, gaps = {}, []
        rows = zip(b[self.reward].tolist(), b[ROLE], b[INFO], b.structure.group.tolist())
        for reward, role, info, group in rows:
            gaps.append(self._gap((info or {}).get("game") or b[TASK][group].source, role, reward))
        a = b.spread(torch.tensor(gaps, dtype=torch.float32), TRAJECTORY, TURN) * self.gamma ** turns_left(b)
        a = a if self.keep_zero else torch.where(a == 0, torch.full_like(a, torch.nan), a)
        return b.put(ADVANTAGE, b.spread(a, TURN, TOKEN))

    def _gap(self, game: str, role: str, reward: float) -> float:
        """R − b; then b moves."""
        if reward != reward:
            return reward
        kept = self.baselines.setdefault(game, {})
        key = role if self.by_role else "all"
        b = kept.get(key, 0.0)
        kept[key] = self.decay * b + (1 - self.decay) * reward
        self._gaps.setdefault(role, []).append(reward - b)
        return reward - b

    def state_dict(self) -> dict[str, Any]:
        return {"baselines": {game: dict(roles) for game, roles in self.baselines.items()}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.baselines = {game: dict(roles) for game, roles in saved["baselines"].items()}


def turns_left(b: Batch) -> torch.Tensor:
    """[turns] how many sampled turns follow in its trajectory (of several, the last one's; 0 where none samples it)."""
    left = torch.zeros(b.size(TURN))
    for j in range(b.size(TRAJECTORY)):
        mine = [u for u in b.turns_of(j) if b.structure.sampled[u]]
        left[mine] = torch.arange(len(mine) - 1, -1, -1, dtype=left.dtype)
    return left
