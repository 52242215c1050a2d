"""From turns to model input, and from hidden states to log-probs of sampled tokens.

Every turn is computed once, forward and backward, however many branches share it. Where a model's attention can be told
who looks at whom (`temper.models.plan`), all turns lie behind one another in a single row without padding; else every
chain of turns, root to leaf, is a row of a padded rectangle. Every TOKEN row is scored where it is first found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ALLOWED, SUPPORT, TEMPERATURE, TOKEN
from temper.models import attention
from temper.models.load import plain, trunk
from temper.models.plan import Unit, moved, planned
from temper.models.probe import accepted, branches_apart

CHUNK = 1 << 24  # logits held at once (rows x vocabulary); more are computed again, chunk by chunk, backward
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rectangle:
    """Model input.

    ids, position [rows, width]  place [tokens]: flat index that predicts each TOKEN row
    mask [rows, width] (1 = a token), or what carries a plan of attention
    begin [turns]: flat index of each turn's first id, where it is laid out first (−1: nowhere)
    """

    ids: Tensor
    position: Tensor
    mask: Tensor
    place: Tensor
    begin: Tensor


def chains(b: Batch) -> list[list[int]]:
    """Root-to-leaf chains of turns that cover every sampled turn, each turn list in order."""
    parent = b.structure.parent.tolist()
    needed = _needed(b)
    inner = {parent[turn] for turn in needed}
    return [_path(leaf, parent) for leaf in needed if leaf not in inner]


def _needed(b: Batch) -> list[int]:
    """The sampled turns and what they had in context, parents before children."""
    parent, sampled = b.structure.parent.tolist(), b.structure.sampled.tolist()
    needed = list(sampled)
    for turn in range(len(parent) - 1, -1, -1):
        if needed[turn] and parent[turn] >= 0:
            needed[parent[turn]] = True
    return [turn for turn, wanted in enumerate(needed) if wanted]


def _path(turn: int, parent: list[int]) -> list[int]:
    path = []
    while turn >= 0:
        path.append(turn)
        turn = parent[turn]
    return path[::-1]


def units(b: Batch) -> list[Unit]:
    """The turns that are needed, as stretches between two forks, each behind the stretch that it continues."""
    parent, length = b.structure.parent.tolist(), b.structure.start.diff().tolist()
    needed = _needed(b)
    children = [0] * len(parent)
    for turn in needed:
        if parent[turn] >= 0:
            children[parent[turn]] += 1
    made: list[Unit] = []
    unit_of: dict[int, int] = {}
    for turn in needed:
        up = parent[turn]
        if up >= 0 and children[up] == 1:
            unit_of[turn] = unit_of[up]
        else:
            unit_of[turn] = len(made)
            made.append(Unit(unit_of[up] if up >= 0 else -1))
        made[unit_of[turn]].turns.append(turn)
        made[unit_of[turn]].length += length[turn]
    return made


def rectangle(b: Batch, flat: bool = False) -> Rectangle:
    """The model input that scores every TOKEN row of `b`. ValueError when a sampled turn has nothing before it."""
    stretches = units(b) if flat else []
    rows = [[u for unit in stretches for u in unit.turns]] if flat else chains(b)
    length = b.structure.start.diff().tolist()
    widths = [sum(length[u] for u in row) for row in rows]
    ids, position, place, begin = _laid(b, rows, max(widths, default=0), length)
    if flat:
        return Rectangle(ids, position, planned(stretches), place, begin)
    mask = (torch.arange(ids.shape[1])[None] < torch.tensor(widths, dtype=torch.int64)[:, None]).long()
    return Rectangle(ids, position, mask, place, begin)


def _laid(b: Batch, rows: list[list[int]], width: int, length: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, position, place, begin) with the turns of each row behind one another."""
    s = b.structure
    sampled, parent = s.sampled.tolist(), s.parent.tolist()
    depth = [0] * len(parent)
    for turn, up in enumerate(parent):
        depth[turn] = depth[up] + length[up] if up >= 0 else 0
    begin, before = [-1] * len(parent), [-1] * len(parent)  # flat index of a turn's first token, and before it
    begins = list[int]()  # flat index of each turn's first token, row by row
    for r, row in enumerate(rows):
        column, at = 0, dict[int, int]()
        for turn in row:
            at[turn] = column
            begins.append(r * width + column)
            begin[turn] = begins[-1] if begin[turn] < 0 else begin[turn]
            if sampled[turn] and length[turn] and before[turn] < 0:
                before[turn] = r * width + _before(at, turn, parent, length)
            column += length[turn]
    turns = torch.tensor([turn for row in rows for turn in row], dtype=torch.int64)
    lengths = s.start.diff()[turns]
    inside = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    source, target, deep = (
        torch.repeat_interleave(first, lengths) + inside
        for first in (s.start[turns], torch.tensor(begins, dtype=torch.int64), torch.tensor(depth)[turns])
    )
    ids, position = (torch.zeros(len(rows) * width, dtype=torch.int64) for _ in range(2))
    ids[target], position[target] = s.ids[source], deep
    offset = s.token_position - s.start[s.token_turn]
    first = torch.tensor(begin)
    place = torch.where(offset == 0, torch.tensor(before)[s.token_turn], first[s.token_turn] + offset - 1)
    return ids.view(len(rows), width), position.view(len(rows), width), place, first


def _before(at: dict[int, int], turn: int, parent: list[int], length: list[int]) -> int:
    """Column of the last token before `turn` in its own chain (empty turns have none)."""
    up = parent[turn]
    while up >= 0 and length[up] == 0:
        up = parent[up]
    if up < 0:
        raise ValueError("a sampled turn opens a context: give the environment's turn before it at least one token")
    return at[up] + length[up] - 1


def head_of(module: Any) -> Head | None:
    """hidden states -> logits, as this model computes them; None when base model and head cannot be told apart."""
    model = plain(module)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None or trunk(model) is None:
        return None
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    scale = _number(config, "logit_scale") / _number(config, "logits_scaling")

    def logits(hidden: Tensor) -> Tensor:
        out: Tensor = head(hidden) * scale if scale != 1.0 else head(hidden)
        return torch.tanh(out / cap) * cap if cap else out

    logits.module = head  # type: ignore[attr-defined]
    return logits if _head_agrees(model, logits) else None


def _number(config: Any, name: str) -> float:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, (int, float)) and value else 1.0


def _head_agrees(model: Any, logits: Callable[[Tensor], Tensor]) -> bool:
    device = next(model.parameters()).device
    ids = torch.arange(4, device=device)[None]
    with torch.no_grad():
        full = model(input_ids=ids).logits
        mine = logits(trunk(model)(input_ids=ids).last_hidden_state)
    return bool(full.shape == mine.shape and torch.allclose(full, mine, atol=1e-3, rtol=1e-3))


def forward(module: Any, r: Rectangle, head: Head | None) -> Tensor:
    """[tokens, width] hidden states that predict each TOKEN row; without a head, [tokens, vocabulary] logits."""
    device = next(module.parameters()).device
    full = None if r.mask.dim() == 2 and bool(r.mask.all()) else moved(r.mask, device)
    model = plain(module) if head is None else trunk(module)
    inputs = accepted(model, input_ids=r.ids.to(device), attention_mask=full, position_ids=r.position.to(device))
    out = model(**inputs, use_cache=False)
    rows: Tensor = out.logits if head is None else out.last_hidden_state
    return rows.flatten(0, 1)[r.place.to(device)]


def can_pack(module: Any) -> bool:
    """Whether all turns may lie in one row behind a plan: our attention in use, and results that do not change."""
    model = plain(module)
    ours = getattr(model.config.get_text_config(), "_attn_implementation", None) == attention.NAME
    return ours and sees_all(module) and trunk(model) is not None and branches_apart(trunk(model))


def sees_all(module: Any) -> bool:
    """Whether every layer attends to the whole past."""
    config = plain(module).config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return set(kinds) == {"full_attention"} and (window is None or "layer_types" in config.to_dict())


def score(b: Batch, hidden: Tensor, head: Head | None) -> tuple[Tensor, Tensor]:
    """(log-prob, entropy) [tokens] of each TOKEN row under the distribution that it was sampled from.

    Temperature, truncated support and allowed ids are those stored with its turn, so that the ratio to the sampler's
    log-prob is 1 before any update. No [tokens, vocabulary] tensor outlives its chunk.
    """
    temperature = b.at(TEMPERATURE, TOKEN).to(hidden.device)
    temperature = torch.where(temperature > 0, temperature, torch.ones_like(temperature))
    ids, cut = b.token_ids.to(hidden.device), _cuts(b)
    vocabulary = hidden.shape[-1] if head is None else _vocabulary(head, hidden)
    rows = max(1, CHUNK // vocabulary)
    if len(ids) <= rows:
        return _score_chunk(hidden, ids, temperature, head, cut)
    scored: tuple[Tensor, Tensor] = _Chunked.apply(hidden, ids, temperature, head, cut, rows, *_weights(head))  # type: ignore[no-untyped-call]
    return scored


@torch.no_grad()
def score_norm(b: Batch, hidden: Tensor, head: Head | None) -> Tensor:
    """[tokens] ‖∇ log π(y)‖² by the tempered logits: 1 − 2 π(y) + Σ_v π(v)². `hidden`: as for `score`."""
    temperature = b.at(TEMPERATURE, TOKEN).to(hidden.device)
    temperature = torch.where(temperature > 0, temperature, torch.ones_like(temperature))
    rows = max(1, CHUNK // (hidden.shape[-1] if head is None else _vocabulary(head, hidden)))
    out = []
    for x, ids, t, _, cut in _pieces(hidden, b.token_ids.to(hidden.device), temperature, head, _cuts(b), rows):
        p = _tempered(x if head is None else head(x), t, cut).softmax(-1)
        out.append(1 - 2 * p.gather(1, ids[:, None]).squeeze(1) + (p * p).sum(-1))
    return torch.cat(out) if out else hidden.new_zeros(0)


class _Chunked(torch.autograd.Function):
    """`_score_chunk` over `rows` rows at a time; backward computes each chunk again and keeps nothing of it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, ids: Tensor, temperature: Tensor, head: Head | None, cut: list[Any] | None, rows: int,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.save_for_backward(hidden, ids, temperature)
        ctx.rest = head, cut, rows, weights
        ctx.autocast = _autocast(hidden)
        ctx.set_materialize_grads(False)
        parts = [_score_chunk(*p) for p in _pieces(hidden, ids, temperature, head, cut, rows)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    @staticmethod
    def backward(ctx: Any, by_logp: Tensor | None, by_entropy: Tensor | None) -> tuple[Any, ...]:
        hidden, ids, temperature = ctx.saved_tensors
        head, cut, rows, weights = ctx.rest
        out, totals = torch.zeros_like(hidden), [torch.zeros_like(w) for w in weights]
        for n, (x, y, t, _, kept) in enumerate(_pieces(hidden, ids, temperature, head, cut, rows)):
            at = slice(n * rows, n * rows + len(x))
            with torch.enable_grad(), ctx.autocast():
                leaf = x.detach().requires_grad_()
                raw = leaf if head is None else head(leaf)
            g, e = (None if by is None else by[at] for by in (by_logp, by_entropy))
            found = torch.autograd.grad(raw, [leaf, *weights], _by_logits(raw.detach(), y, t, kept, g, e))
            out[at] = found[0]
            for total, more in zip(totals, found[1:]):
                total += more
        return (out, None, None, None, None, None, *totals)


def _by_logits(
    raw: Tensor, ids: Tensor, temperature: Tensor, cut: list[Any] | None, g: Tensor | None, e: Tensor | None
) -> Tensor:
    """[rows, vocabulary] gradient of Σ g·log p(id) + e·H by the logits: g (1[id] − p) − e p (log p + H), over T."""
    logp = _tempered(raw, temperature, cut).log_softmax(-1)
    p = logp.exp()
    out = torch.zeros_like(p) if e is None else -e[:, None] * p * (logp.masked_fill_(p == 0, 0) + _entropy(logp, p))
    if g is not None:
        out.addcmul_(p, g[:, None], value=-1).scatter_add_(1, ids[:, None], g[:, None].to(out.dtype))
    return out.div_(temperature[:, None]).to(raw.dtype)


def _pieces(
    hidden: Tensor, ids: Tensor, temperature: Tensor, head: Head | None, cut: list[Any] | None, rows: int
) -> Iterator[tuple[Any, ...]]:
    for lo in range(0, len(ids), rows):
        at = slice(lo, lo + rows)
        yield hidden[at], ids[at], temperature[at], head, None if cut is None else cut[at]


def _autocast(x: Tensor) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Makes the autocast that is in force now."""
    kind = x.device.type
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, enabled=on)


def _weights(head: Head | None) -> list[Tensor]:
    return [] if head is None else [p for p in head.module.parameters() if p.requires_grad]  # type: ignore[attr-defined]


def _vocabulary(head: Callable[[Tensor], Tensor], hidden: Tensor) -> int:
    with torch.no_grad():
        return int(head(hidden[:1]).shape[-1])


def _score_chunk(
    hidden: Tensor, ids: Tensor, temperature: Tensor, head: Head | None, cut: list[Any] | None
) -> tuple[Tensor, Tensor]:
    logp = _tempered(hidden if head is None else head(hidden), temperature, cut).log_softmax(-1)
    p = logp.exp()
    return logp.gather(1, ids[:, None]).squeeze(1), _entropy(logp, p).squeeze(1)


def _tempered(logits: Tensor, temperature: Tensor, cut: list[Any] | None) -> Tensor:
    """In at least float32, over their temperature, −inf where a token could not be sampled."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits.to(wide) / temperature[:, None]
    return logits if cut is None else torch.where(_kept(cut, logits), logits, torch.full_like(logits, -torch.inf))


def _entropy(logp: Tensor, p: Tensor) -> Tensor:
    """[rows, 1]"""
    return -(p * torch.where(p > 0, logp, torch.zeros_like(logp))).sum(-1, keepdim=True)


def _cuts(b: Batch) -> list[Any] | None:
    """Per TOKEN row the ids that were left to sample from (None: all); None when no turn was cut."""
    support, allowed = b[SUPPORT], b[ALLOWED]
    if not any(x is not None for x in support) and not any(x is not None for x in allowed):
        return None
    sampled, lengths = b.structure.sampled.tolist(), b.structure.start.diff().tolist()
    rows: list[Any] = []
    for turn, n in enumerate(lengths):
        if sampled[turn]:
            rows += [allowed[turn]] * n if support[turn] is None else list(support[turn])
    return rows


def _kept(cut: list[Any], logits: Tensor) -> Tensor:
    keep = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in enumerate(cut):
        if ids is None:
            keep[row] = True
        else:
            keep[row, torch.tensor(ids, device=logits.device)] = True
    return keep
