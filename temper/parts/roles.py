"""Parts of a run in which several policies play: each looks at its own roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import GROUP, ROLE, TOKEN, TRAJECTORY, TURN, Column, Level, floating
from temper.errors import UserError
from temper.stage import Stage


@dataclass
class ForRoles:
    """`stage` on the trajectories of some roles alone; other rows keep what they had, or NaN.

    What the stage computes over a batch (whitening, a critic's values) is then computed over the rows of one policy.
    A row that trajectories of other roles share is these roles' too. The stage must keep every row.

    UserError, when it is called, for a stage that drops rows or writes a column that is not floating.
    """

    stage: Stage
    roles: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{type(self.stage).__name__} for {', '.join(self.roles)}"

    @property
    def reads(self) -> tuple[Column, ...]:
        return (ROLE, *(c for c in self.stage.reads if c != ROLE))

    @property
    def uses(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys((*getattr(self.stage, "uses", ()), *self.stage.writes)))

    @property
    def writes(self) -> tuple[Column, ...]:
        return self.stage.writes

    @property
    def metrics(self) -> dict[str, float]:
        own: dict[str, float] = getattr(self.stage, "metrics", {})
        return own

    async def __call__(self, b: Batch) -> Batch:
        mine = torch.tensor([role in self.roles for role in b[ROLE]], dtype=torch.bool)
        if bool(mine.all()):
            return await self.stage(b)
        part = b.select(mine)
        out = await self.stage(part) if bool(mine.any()) else None
        for column in self.stage.writes:
            if column.dtype != floating or (out is not None and out.size(TRAJECTORY) != part.size(TRAJECTORY)):
                raise UserError(f"{self.name}: the stage must keep every row and write numbers ({column.name!r})")
            values = b[column].clone() if column in b else None
            if out is not None:
                rows, found = rows_of(b, mine, column.level), out[column]
                if values is None:
                    values = torch.full((b.size(column.level), *found.shape[1:]), torch.nan, dtype=found.dtype)
                values[rows] = found.to(values.dtype)
            elif values is None:
                values = torch.full((b.size(column.level),), torch.nan)
            b = b.put(column, values)
        return b

    def state_dict(self) -> dict[str, Any]:
        return self.stage.state_dict() if hasattr(self.stage, "state_dict") else {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        if hasattr(self.stage, "load_state_dict"):
            self.stage.load_state_dict(saved)


def rows_of(b: Batch, keep: Tensor, level: Level) -> Tensor:
    """[rows of `level`] the rows that are left when the trajectories where `keep` is true are selected."""
    s = b.structure
    if level == TRAJECTORY:
        return keep
    if level == GROUP:
        return torch.zeros(s.groups, dtype=torch.bool).index_fill(0, s.group[keep], True)
    turns = torch.zeros(s.size(TURN), dtype=torch.bool).index_fill(0, s.member[0][keep[s.member[1]]], True)
    if level == TOKEN:
        return turns[s.token_turn]
    new = turns
    while bool(new.any()):  # what they had in context
        parents = s.parent[new]
        new = torch.zeros_like(turns).index_fill(0, parents[parents >= 0], True) & ~turns
        turns = turns | new
    return turns
