"""One token for each row of logits, by the request's own uniform number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from temper.backends.base import SamplingParams

Support = tuple[int, ...] | None
BLOCK = 64  # tokens whose mass is added up first, where the vocabulary is a multiple of it and large
LARGE = 8192


def draw(
    logits: Tensor, requests: Sequence[Any], drafts: Sequence[tuple[int, ...]]
) -> tuple[list[int], list[float], list[Support]]:
    """(ids, log-probs, supports), one for each row of `logits`: inverse transform; greedy at temperature 0.

    Rows are those of the requests in order, each with one more for each of its guesses, drawn as if those were right.
    """
    if any(drafts):
        owners = [(r, ahead) for r, d in zip(requests, drafts) for ahead in range(1 + len(d))]
        requests, uniform = [r for r, _ in owners], [r.next_uniform(ahead) for r, ahead in owners]
    else:
        uniform = [r.next_uniform() for r in requests]
    logits, heat = logits.cpu(), [r.params.temperature for r in requests]
    support: list[Support] = [None] * len(requests)
    if set(heat) != {1.0}:
        logits = logits / torch.tensor([h or 1.0 for h in heat], dtype=logits.dtype)[:, None]
    special = [row for row, r in enumerate(requests) if r.cut or r.params.allowed is not None]
    logits = logits.clone() if special else logits
    for row in special:
        support[row] = _restricted(logits, row, requests[row])
    p = torch.softmax(logits, -1)
    ids = inverse(p, torch.tensor(uniform, dtype=torch.float64)[:, None])
    if 0 in heat:
        greedy = torch.tensor([h == 0 for h in heat])[:, None]
        ids = torch.where(greedy, logits.argmax(-1, keepdim=True), ids)
    logp = p.gather(1, ids).log_()
    return ids.squeeze(1).tolist(), logp.squeeze(1).tolist(), support


def inverse(p: Tensor, u: Tensor) -> Tensor:
    """[rows, 1]: the first token of each row up to which more than the share u [rows, 1] of the mass of p lies."""
    rows, n = p.shape
    if n < LARGE or n % BLOCK:
        return _crossed(p.cumsum(-1, dtype=torch.float64), u)
    blocks = p.view(rows, -1, BLOCK)
    total = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    block = _crossed(total, u)
    before = torch.where(block > 0, total.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(rows), block.squeeze(1)].cumsum(-1, dtype=torch.float64)
    within = torch.searchsorted(inside, u * total[:, -1:] - before, right=True)
    return block * BLOCK + within.clamp(max=BLOCK - 1)


def _crossed(total: Tensor, u: Tensor) -> Tensor:
    return torch.searchsorted(total, u * total[:, -1:], right=True).clamp(max=total.shape[1] - 1)


def _restricted(logits: Tensor, row: int, request: Any) -> Support:
    """Leave only what the request may draw; its support where that is cut by top_k or top_p."""
    p: SamplingParams = request.params
    if p.allowed is not None:
        keep = torch.full_like(logits[row], -torch.inf)
        keep[list(p.allowed)] = 0.0
        logits[row] += keep
    return _truncated(logits, row, p) if request.cut else None


def _truncated(logits: Tensor, row: int, p: SamplingParams) -> tuple[int, ...]:
    """Cut the row to its top_k tokens, then to the fewest whose mass reaches top_p; returns the ids that are left."""
    order = logits[row].argsort(descending=True, stable=True)
    order = order[: int((logits[row] > -torch.inf).sum())]
    if p.top_k:
        order = order[: p.top_k]
    if p.top_p < 1:
        mass = torch.softmax(logits[row][order], dim=-1).cumsum(0)
        order = order[: int((mass < p.top_p).sum()) + 1]
    keep = torch.full_like(logits[row], -torch.inf)
    keep[order] = logits[row][order]
    logits[row] = keep
    return tuple(sorted(order.tolist()))
