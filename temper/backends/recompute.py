"""Sampling without a key-value cache: for models whose layers carry a state, or keep something other than keys.

Every step computes the whole of each row again, by the learner's own forward. Slow, and right for any causal model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from temper.models import layout
from temper.models.load import plain
from temper.models.probe import accepted

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


def keeps_keys(module: Any) -> bool:
    """Whether every layer is an attention that keeps the keys and values of its own past, and nothing else."""
    model = plain(module)
    config = model.config.get_text_config()
    stateful = getattr(model, "_is_stateful", False) or getattr(config, "num_kv_shared_layers", 0)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return not stateful and kinds <= ATTENTION and "past_key_values" in accepted(model, past_key_values=None)


class History:
    """The ids of running rows, right-aligned; it stands where the sampler has a cache."""

    spread = None

    def __init__(self) -> None:
        self.ids = torch.zeros((0, 0), dtype=torch.int64)

    @property
    def layers(self) -> list[History]:
        return [self]

    def add(self, ids: Tensor) -> None:
        self.ids = torch.cat([self.ids, ids], dim=1) if len(self.ids) else ids

    def select(self, rows: Tensor) -> None:
        self.ids = self.ids[rows.cpu()]

    def leave(self, rows: int, gaps: Tensor, movers: Tensor) -> None:
        self.ids[gaps.cpu()] = self.ids[movers.cpu()]
        self.ids = self.ids[:rows]

    def trim(self, left: int) -> None:
        self.ids = self.ids[:, left:]

    def join(self, other: History, width: int) -> None:
        self.ids = torch.cat([pad(x, (width - x.shape[1], 0)) for x in (self.ids, other.ids)])

    def logits(self, module: Any, head: Callable[[Tensor], Tensor] | None, mask: Tensor, context: int) -> Tensor:
        """[rows, vocabulary] after the last id of every row; rows are laid from the left, as the learner lays them."""
        length = mask.sum(1)
        column = torch.arange(int(length.max()))
        source = (column[None] + (mask.shape[1] - length)[:, None]).clamp(max=mask.shape[1] - 1)
        rectangle = layout.Rectangle(
            ids=self.ids.gather(1, source),
            position=column.clamp(max=context - 1).expand(len(length), -1),
            mask=(column[None] < length[:, None]).long(),
            place=torch.arange(len(length)) * len(column) + length - 1,
            begin=torch.arange(len(length)) * len(column),
        )
        hidden = layout.forward(module, rectangle, head)
        return hidden if head is None else head(hidden)
