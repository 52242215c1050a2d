"""A local sampler with weights of its own that notes which experts each token went to, for `temper.models.routing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.backends.base import Ack, Weights, fingerprint
from temper.backends.keys import Layer
from temper.backends.own import OwnSampler
from temper.backends.rows import Rows
from temper.models.load import plain
from temper.models.routing import choices, routers


@dataclass(frozen=True)
class Routed:
    """`Policy(engine=Routed(…))`: sampled locally, in another precision where one is given, with experts noted.

    dtype  "bfloat16": the sampler's weights, as in a serving engine (empty: the learner's)
    """

    dtype: str = ""

    def check(self) -> None:
        """Nothing has to be installed."""

    def sampler(self, module: Any, tokenizer: Any, **options: Any) -> RoutedSampler:
        made = RoutedSampler(module, tokenizer, **options)
        if self.dtype:
            made.module.to(getattr(torch, self.dtype))
        return made


class RoutedSampler(OwnSampler):
    """Experts ride in the key-value cache as one layer more: they move, stay and go with their tokens' keys.

    routes  context and answer, as ids → [ids − 1, layers, experts per token] int16; whoever reads it empties it
    """

    def __init__(self, module: Any, tokenizer: Any, **options: Any):
        super().__init__(module, tokenizer, **options)
        self.routers = len(routers(self.module))
        self.layers = plain(self.module).config.get_text_config().num_hidden_layers
        self.decoder = self.drafts = None
        self.routes: dict[tuple[int, ...], Tensor] = {}

    async def load(self, weights: Weights, version: int) -> Ack:
        """Copy the weights in, rounded to this sampler's precision; the acknowledgement is of what arrived."""
        ack = await super().load(weights, version)
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
        self.routes[(*r.ids, *r.drawn)] = experts[0].reshape(experts.shape[1], self.routers, -1).clone()
        super()._ended(rows, row)
