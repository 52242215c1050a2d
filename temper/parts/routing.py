"""Routing replay: the experts that the sampler noted become a column, which the learner's forward pass follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from temper.backends.routed import Notes, Routed
from temper.carrier import Batch
from temper.errors import UserError
from temper.models.routing import ROUTED


@dataclass
class Routes:
    """ROUTED of every turn that a sampled token had in context, from what `policy`'s sampler noted (engine Routed).

    Before it, the learner routes as it likes; behind it, in updates too, as the sampler did. A stage of groups or of
    batches. routing/known: share of the tokens whose experts are known; the others go where they like.
    """

    policy: Any
    metrics: dict[str, float] = field(default_factory=dict, init=False)
    reads = ()
    writes = (ROUTED,)

    def __post_init__(self) -> None:
        if not isinstance(self.policy.engine, Routed):
            raise UserError(f"engine {self.policy.engine!r} notes no experts: replaying them needs engine=Routed()")

    @property
    def notes(self) -> Notes:
        noted: Notes = self.policy.sampler.routes
        return noted

    async def __call__(self, b: Batch) -> Batch:
        s, noted = b.structure, self.notes
        ids, start, parent = s.ids.tolist(), s.start.tolist(), s.parent.tolist()
        routed: list[Any] = [None] * len(parent)
        known = total = 0
        for turn in torch.where(s.sampled)[0].tolist():
            path, up = [turn], parent[turn]
            while up >= 0:
                path, up = [up, *path], parent[up]
            whole = tuple(i for u in path for i in ids[start[u] : start[u + 1]])
            route, at = noted.get(whole), 0
            total += len(whole) - 1
            for u in path if route is not None else ():
                n = start[u + 1] - start[u]
                piece = route[at : at + n]
                at += n
                if routed[u] is None or u == turn:
                    routed[u] = torch.cat([piece, piece.new_full((n - len(piece), *route.shape[1:]), -1)])
            known += 0 if route is None else len(route)
        self.metrics = {"routing/known": known / max(total, 1)}
        return b.put(ROUTED, routed)

    def state_dict(self) -> dict[str, Any]:
        return self.notes.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.notes.load_state_dict(saved)
