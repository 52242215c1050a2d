"""Attention over a beginning that several rows share: read once for all of them, and merged with what each row has of
its own by the logarithm of the sums (the two parts of one softmax)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class Spread:
    """Which beginning each row has.

    group   [rows] index of a beginning; before: [rows] its tokens
    length  [groups] tokens of each beginning, right-aligned in `columns`
    """

    def __init__(self, group: Tensor, length: Tensor, columns: int, device: torch.device):
        self.group, self.length, self.columns, self.before = group, length, columns, length[group]
        count = torch.bincount(group, minlength=len(length))
        self.most = int(count.max())
        order = group.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order)) - (count.cumsum(0) - count)[group[order]]
        back = group * self.most + rank
        every = torch.zeros(len(length) * self.most, dtype=torch.int64)  # places that no row takes repeat row 0
        every[back] = torch.arange(len(group))
        self.back, self.every = back.to(device), every.to(device)
        seen = torch.arange(columns)[None] >= (columns - length)[:, None]
        bias = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None, None]
        self.bias = None if bool(seen.all()) else bias.to(device)

    def kept(self, rows: Tensor) -> Spread:
        """Of these rows only."""
        return Spread(self.group[rows], self.length, self.columns, self.back.device)


@dataclass
class Stem:
    """The beginnings' keys and values [groups, heads, columns, width] in one layer."""

    keys: Tensor
    values: Tensor
    spread: Spread

    def merged(self, q: Tensor, scores: Tensor, values: Tensor) -> Tensor:
        """[rows, query heads, width]: of queries [rows, query heads, width] over beginnings and rows' own tokens.

        scores [rows · heads, query heads of one, tokens], values [rows · heads, tokens, width]: of the rows' own
        """
        rows, (groups, heads, _, width), most = len(q), self.keys.shape, self.spread.most
        asked = q.index_select(0, self.spread.every).view(groups, most, heads, -1, width).transpose(1, 2)
        shared = torch.bmm(asked.reshape(groups * heads, -1, width), self.keys.flatten(0, 1).transpose(1, 2))
        if self.spread.bias is not None:
            shared.view(groups, heads, -1, shared.shape[2]).add_(self.spread.bias)
        first = torch.cat(_summed(shared, self.values.flatten(0, 1)), -1)
        first = first.view(groups, heads, most, -1, width + 2).transpose(1, 2).reshape(groups * most, -1, width + 2)
        first = first.index_select(0, self.spread.back)
        sums, mass, top = (x.view(rows, -1, x.shape[2]) for x in _summed(scores, values))
        both = torch.maximum(top, first[..., width + 1 :])
        mine, theirs = (top - both).exp_(), first[..., width + 1 :].sub(both).exp_()
        return (
            (first[..., :width] * theirs)
            .addcmul_(sums, mine)
            .div_((first[..., width : width + 1] * theirs).addcmul_(mass, mine))
        )


def _summed(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Σ e^(s − m) · v, Σ e^(s − m), m), m the largest score; `scores` is used up."""
    top = scores.amax(-1, keepdim=True)
    weight = scores.sub_(top).exp_()
    return torch.bmm(weight, values), weight.sum(-1, keepdim=True), top
