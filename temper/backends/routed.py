"""A local sampler with weights of its own that notes which experts each token went to, for `temper.models.routing`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.backends.base import Ack, Weights, fingerprint
from temper.backends.keys import Layer
from temper.backends.own import OwnSampler
from temper.backends.rows import Rows
from temper.errors import UserError
from temper.models.load import plain
from temper.models.routing import choices, routers

ROOM = 2**31  # bytes of notes


@dataclass(frozen=True)
class Routed:
    """`Policy(engine=Routed(…))`: sampled locally, in another precision where one is given, with experts noted.

    dtype  "bfloat16": the sampler's weights, as in a serving engine (empty: the learner's)
    ahead  the run's: notes are kept until answers under weights so many updates old have been staged
    """

    dtype: str = ""
    ahead: int = 0

    def check(self) -> None:
        """Nothing has to be installed."""

    def alone(self, policy: Any) -> None:
        """UserError unless the learner that follows the notes is in this process and whole."""
        elsewhere = [type(x).__name__ for x in (policy.backend, policy.sharding) if x is not None]
        if elsewhere or policy.learners > 1:
            what = " and ".join(elsewhere) or f"learners={policy.learners}"
            raise UserError(f"routing replay works in this process only: leave out the sampler routed, or {what}")

    def sampler(self, module: Any, tokenizer: Any, **options: Any) -> RoutedSampler:
        made = RoutedSampler(module, tokenizer, **options)
        made.routes.ahead = self.ahead
        if self.dtype:
            made.module.to(getattr(torch, self.dtype))
        return made


class Notes:
    """Where the tokens of answers went, by the ids of context and answer: [ids − 1, layers, experts per token] int16.

    A note stays while the answer may still be staged: until weights are served that are more than `ahead` updates newer
    than those that sampled it. Where there is no room, the oldest go.
    """

    def __init__(self, ahead: int = 0, room: int = ROOM):
        self.ahead, self.room, self.size = ahead, room, 0
        self._of: dict[tuple[int, ...], tuple[int, Tensor]] = {}

    def put(self, ids: tuple[int, ...], version: int, experts: Tensor) -> None:
        self._drop(ids)
        self._of[ids] = version, experts
        self.size += experts.nbytes
        while self.size > self.room:
            self._drop(next(iter(self._of)))

    def get(self, ids: tuple[int, ...]) -> Tensor | None:
        return self._of[ids][1] if ids in self._of else None

    def served(self, version: int) -> None:
        """These weights are served from now on."""
        for ids in [ids for ids, (sampled, _) in self._of.items() if sampled < version - self.ahead]:
            self._drop(ids)

    def _drop(self, ids: tuple[int, ...]) -> None:
        if ids in self._of:
            self.size -= self._of.pop(ids)[1].nbytes

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self._of)

    def state_dict(self) -> dict[str, Any]:
        return {"notes": [[list(ids), version, experts] for ids, (version, experts) in self._of.items()]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for ids, version, experts in saved["notes"]:
            self.put(tuple(ids), version, experts)


class RoutedSampler(OwnSampler):
    """Experts ride in the key-value cache as one layer more: they move, stay and go with their tokens' keys."""

    def __init__(self, module: Any, tokenizer: Any, **options: Any):
        super().__init__(module, tokenizer, **options)
        self.routers = len(routers(self.module))
        self.layers = plain(self.module).config.get_text_config().num_hidden_layers
        self.decoder = self.drafts = None
        self.routes = Notes()

    async def load(self, weights: Weights, version: int) -> Ack:
        """Copy the weights in, rounded to this sampler's precision; the acknowledgement is of what arrived."""
        ack = await super().load(weights, version)
        self.routes.served(version)
        mine = dict(self.module.named_parameters())
        if all(torch.equal(mine[name], value.to(mine[name].dtype)) for name, value in weights.items()):
            return Ack(version, fingerprint(weights.items()))
        return ack

    def _forward(self, ids: Tensor, length: Tensor, cache: Any, filled: int, *rest: Any) -> Tensor:
        with choices(self.module) as seen:
            logits = super()._forward(ids, length, cache, filled, *rest)
        experts = torch.stack(seen, 1).view(*ids.shape, -1)[:, None].to(torch.int16)  # layers × experts is the width
        if len(cache.layers) == self.layers:
            cache.layers.append(Layer(cache.layers[0].room))
        cache.layers[-1].update(experts, experts[..., :1])
        return logits

    def _ended(self, rows: Rows, row: int) -> None:
        r = rows.requests[row]
        experts = rows.pieces(row)[-1][0]
        routes = experts[0].reshape(experts.shape[1], self.routers, -1).to("cpu", copy=True)
        self.routes.put((*r.ids, *r.drawn), r.version, routes)
        super()._ended(rows, row)
