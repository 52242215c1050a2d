"""Mixture-of-experts models: which experts each token went to, read from a model while it samples, and replayed.

Sampler and learner choose experts by slightly different numbers, and a token that goes elsewhere has another log-prob.
Replayed, the learner's tokens go where the sampler's went; how much each expert counts is still the learner's own
softmax, with its gradient. ("Rollout routing replay", Ma et al. 2025, arXiv 2510.11370; Relax, arXiv 2604.11554.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from temper.carrier import Batch
from temper.columns import TURN, Column, anything
from temper.errors import UserError
from temper.models.layout import Rectangle, chains
from temper.models.load import plain

ROUTED = Column(
    "routed", TURN, anything, "[ids, layers, experts per token] int16: where each id was sent, −1 unknown; or None"
)


def routers(module: Any) -> list[nn.Module]:
    """The routers of a model, first layer first; UserError where there is none that can be read and replayed."""
    if not (found := _routers(module)):
        raise UserError(f"{type(plain(module)).__name__} has no routers of experts: there is nothing to replay")
    return found


def _routers(module: Any) -> list[nn.Module]:
    return [m for m in plain(module).modules() if type(m).__name__.endswith("TopKRouter")]


@contextlib.contextmanager
def choices(module: Any) -> Iterator[list[Tensor]]:
    """A list that the forward passes inside fill: for each router in order [tokens, experts per token]."""
    seen: list[Tensor] = []
    hooks = [r.register_forward_hook(lambda _m, _x, out: seen.append(out[2].detach())) for r in routers(module)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def replay(module: Any, b: Batch, r: Rectangle) -> None:
    """Until the next call, tokens of the input `r` go where ROUTED says; without that column, where they like.

    Where another model reads the batch (a teacher, a critic), whose layers or experts are others, they go as it likes.
    """
    shape = next((tuple(p.shape[1:]) for p in b[ROUTED] if p is not None), None) if ROUTED in b else None
    found = _routers(module) if shape is not None else []
    if not found or shape != (len(found), found[0].top_k):
        for m in plain(module).modules() if hasattr(module, "_replays") else ():
            if hasattr(m, "_sent"):
                m._sent = None
        return
    if not hasattr(module, "_replays"):
        for router in found:
            router.register_forward_hook(_Replay(router))
        module._replays = True
    cells = laid_out(b, r, len(found), found[0].top_k)  # type: ignore[arg-type]
    for layer, router in enumerate(found):
        router._sent = cells[:, layer]


def laid_out(b: Batch, r: Rectangle, layers: int, experts: int) -> Tensor:
    """[cells of the input, layers, experts] from ROUTED; −1 where nothing is known."""
    out = torch.full((r.ids.numel(), layers, experts), -1, dtype=torch.int64)
    routed, length = b[ROUTED], b.structure.start.diff().tolist()
    if r.mask.dim() == 2:  # a rectangle: a turn is laid out in every row that has it in context
        places = []
        for row, path in enumerate(chains(b)):
            at = row * r.ids.shape[1]
            for turn in path:
                places.append((turn, at))
                at += length[turn]
    else:
        places = [(turn, at) for turn, at in enumerate(r.begin.tolist()) if at >= 0]
    for turn, at in places:
        if routed[turn] is not None:
            out[at : at + length[turn]] = routed[turn].long()
    return out


class _Replay:
    """A forward hook: other experts, with the weights that this router's own softmax gives them."""

    def __init__(self, router: Any):
        self.normalised = next((n for n in (True, False) if _reproduces(router, n)), None)
        if self.normalised is None:
            raise UserError(f"the routing of {type(router).__name__} cannot be replayed: its weights are no softmax")

    def __call__(self, router: Any, _inputs: Any, out: Any) -> Any:
        sent = getattr(router, "_sent", None)
        if sent is None:
            return None
        logits, scores, own = out
        chosen = torch.where(sent.to(own.device) >= 0, sent.to(own.device), own)
        return logits, weights(logits, chosen, bool(self.normalised)).to(scores.dtype), chosen


def weights(logits: Tensor, chosen: Tensor, normalised: bool) -> Tensor:
    """[tokens, experts per token] softmax over all experts at the chosen ones, adding up to 1 where `normalised`."""
    p = logits.softmax(-1, dtype=torch.float).gather(-1, chosen)
    return p / p.sum(-1, keepdim=True) if normalised else p


@torch.no_grad()
def _reproduces(router: Any, normalised: bool) -> bool:
    w = next(router.parameters())
    made = torch.Generator().manual_seed(0)
    x = torch.randn(16, w.shape[-1], generator=made).to(w)
    logits, scores, own = router(x)
    return bool(torch.allclose(weights(logits, own, normalised).to(scores.dtype), scores, atol=1e-6, rtol=1e-4))
