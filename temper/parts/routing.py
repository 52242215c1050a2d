"""Routing replay: the experts that the sampler noted become a column, which the learner's forward pass follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from temper.carrier import Batch
from temper.models.routing import ROUTED


@dataclass
class Routes:
    """ROUTED of every turn that a sampled token had in context, from what `policy`'s sampler noted (engine Routed).

    Before it, the learner routes as it likes; behind it, in updates too, as the sampler did.
    """

    policy: Any
    metrics: dict[str, float] = field(default_factory=dict, init=False)
    reads = ()
    writes = (ROUTED,)

    async def __call__(self, b: Batch) -> Batch:
        s, noted = b.structure, self.policy.sampler.routes
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
        noted.clear()
        self.metrics = {"routing/known": known / max(total, 1)}
        return b.put(ROUTED, routed)
