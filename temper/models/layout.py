"""From turns to model input, and from hidden states to log-probs of sampled tokens.

Only here do rows become padded rectangles. A row of the rectangle holds chains of turns (root to leaf) that share
their beginning: what they share is computed once, forward and backward, and a mask keeps branches apart. Every TOKEN
row is scored in the first row that holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from temper.carrier import Batch
from temper.columns import ALLOWED, SUPPORT, TEMPERATURE, TOKEN
from temper.models.load import hidden_width, plain, trunk
from temper.models.probe import accepted, branches_apart

CHUNK = 1 << 24  # logits held at once (rows x vocabulary); more are recomputed chunk by chunk in the backward pass


@dataclass(frozen=True)
class Rectangle:
    """Padded model input.

    ids, position [rows, width]  place [tokens]: flat index that predicts each TOKEN row
    mask [rows, width] (1 = a token) where every row is one chain, else [rows, 1, width, width] (true = may look)
    """

    ids: Tensor
    position: Tensor
    mask: Tensor
    place: Tensor


@dataclass
class Row:
    """Turns laid side by side, parents before children; `at` is where each begins."""

    at: dict[int, int] = field(default_factory=dict)
    width: int = 0
    chains: int = 0

    def add(self, path: list[int], length: list[int]) -> None:
        for turn in path:
            if turn not in self.at:
                self.at[turn] = self.width
                self.width += length[turn]
        self.chains += 1


def chains(b: Batch) -> list[list[int]]:
    """Root-to-leaf chains of turns that cover every sampled turn, each turn list in order."""
    s = b.structure
    parent, sampled = s.parent.tolist(), s.sampled.tolist()
    needed, inner = set(), set()
    for turn in range(len(parent) - 1, -1, -1):
        if sampled[turn] or turn in needed:
            needed.add(turn)
            if parent[turn] >= 0:
                needed.add(parent[turn])
                inner.add(parent[turn])
    return [_path(leaf, parent) for leaf in sorted(needed - inner)]


def _path(turn: int, parent: list[int]) -> list[int]:
    path = []
    while turn >= 0:
        path.append(turn)
        turn = parent[turn]
    return path[::-1]


def pack(b: Batch, token_cost: float) -> list[Row]:
    """Chains as rows. A chain joins the row of its root where that costs less than a row of its own.

    A row of w tokens costs token_cost·w + w²: what its tokens cost beside attention (in tokens attended to), and that.
    With token_cost 0 every chain is a row.
    """
    length = b.structure.start.diff().tolist()
    rows: list[Row] = []
    by_root: dict[int, Row] = {}
    for path in chains(b):
        row = by_root.get(path[0])
        alone = sum(length[u] for u in path)
        new = 0 if row is None else sum(length[u] for u in path if u not in row.at)
        if row is None or not token_cost or _joined(row.width, new, token_cost) > _joined(0, alone, token_cost):
            row = by_root[path[0]] = Row()
            rows.append(row)
        row.add(path, length)
    return rows


def _joined(width: int, new: int, token_cost: float) -> float:
    """What `new` more tokens cost in a row of `width`."""
    return token_cost * new + (2 * width + new) * new


def rectangle(b: Batch, token_cost: float = 0, pad: int = 0) -> Rectangle:
    """The model input that scores every TOKEN row of `b`. ValueError when a sampled turn has nothing before it."""
    s = b.structure
    start, length, sampled = s.start.tolist(), s.start.diff().tolist(), s.sampled.tolist()
    parent = s.parent.tolist()
    rows = pack(b, token_cost)
    width = max((r.width for r in rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    position = torch.zeros((len(rows), width), dtype=torch.int64)
    depth = [0] * len(parent)
    for turn, up in enumerate(parent):
        depth[turn] = depth[up] + length[up] if up >= 0 else 0
    here, before = [-1] * len(parent), [-1] * len(parent)  # flat index of a sampled turn's first token, and before it
    for r, row in enumerate(rows):
        for turn, at in row.at.items():
            n = length[turn]
            ids[r, at : at + n] = s.ids[start[turn] : start[turn + 1]]
            position[r, at : at + n] = torch.arange(depth[turn], depth[turn] + n)
            if sampled[turn] and n and here[turn] < 0:
                here[turn], before[turn] = r * width + at, r * width + _before(row, turn, parent, length)
    of = s.token_turn
    offset = s.token_position - s.start[of]
    place = torch.where(offset == 0, torch.tensor(before)[of], torch.tensor(here)[of] + offset - 1)
    return Rectangle(ids, position, _mask(rows, width, parent), place)


def _before(row: Row, turn: int, parent: list[int], length: list[int]) -> int:
    """Column of the last token before `turn` in its own chain (empty turns have none)."""
    up = parent[turn]
    while up >= 0 and length[up] == 0:
        up = parent[up]
    if up < 0:
        raise ValueError("a sampled turn opens a context: give the environment's turn before it at least one token")
    return row.at[up] + length[up] - 1


def _mask(rows: list[Row], width: int, parent: list[int]) -> Tensor:
    column = torch.arange(width)
    if all(row.chains == 1 for row in rows):
        return (column[None] < torch.tensor([row.width for row in rows])[:, None]).long()
    mask = torch.zeros((len(rows), 1, width, width), dtype=torch.bool)
    for r, row in enumerate(rows):
        number = {turn: i for i, turn in enumerate(row.at)}
        sees = torch.zeros((len(number) + 1, len(number) + 1), dtype=torch.bool)  # the last is padding
        for turn, i in number.items():
            if parent[turn] >= 0:
                sees[i] = sees[number[parent[turn]]]
            sees[i, i] = True
        ends = torch.tensor(list(row.at.values()))
        owner = torch.searchsorted(ends, column, right=True) - 1
        owner[row.width :] = len(number)
        mask[r, 0] = sees[owner][:, owner] & (column[:, None] >= column[None, :])
    mask[:, 0, column, column] = True  # padding looks at itself, so that no row of the softmax is empty
    return mask


def head_of(module: Any) -> Callable[[Tensor], Tensor] | None:
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


def forward(module: Any, r: Rectangle, head: Callable[[Tensor], Tensor] | None) -> Tensor:
    """[tokens, width] hidden states that predict each TOKEN row; without a head, [tokens, vocabulary] logits."""
    device = next(module.parameters()).device
    full = None if r.mask.dim() == 2 and bool(r.mask.all()) else r.mask.to(device)
    model = plain(module) if head is None else trunk(module)
    inputs = accepted(model, input_ids=r.ids.to(device), attention_mask=full, position_ids=r.position.to(device))
    out = model(**inputs, use_cache=False)
    rows: Tensor = out.logits if head is None else out.last_hidden_state
    return rows.flatten(0, 1)[r.place.to(device)]


def token_cost(module: Any) -> float:
    """What a token costs beside attention, in tokens attended to (see pack); 0 where rows cannot be packed.

    A layer of width d takes about 24·d² operations a token, and 4·d for each token attended to: 6·d. The kernels of
    attention reach less of a processor's speed than matrix products do, so 4·d.
    """
    return 4 * hidden_width(module) if can_pack(module) else 0


def can_pack(module: Any) -> bool:
    """Whether chains may share a row behind a mask: full attention everywhere, and results that do not change."""
    model = plain(module)
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kernel = getattr(config, "_attn_implementation", None) in ("sdpa", "temper")
    full = set(kinds) == {"full_attention"} and (window is None or "layer_types" in config.to_dict())
    return kernel and full and trunk(model) is not None and branches_apart(trunk(model))


def score(b: Batch, hidden: Tensor, head: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
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
    parts = []
    for lo in range(0, len(ids), rows):
        piece = slice(lo, lo + rows)
        some = None if cut is None else cut[piece]
        parts.append(
            checkpoint(_score_chunk, hidden[piece], ids[piece], temperature[piece], head, some, use_reentrant=False)
        )
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _vocabulary(head: Callable[[Tensor], Tensor], hidden: Tensor) -> int:
    with torch.no_grad():
        return int(head(hidden[:1]).shape[-1])


def _score_chunk(
    hidden: Tensor, ids: Tensor, temperature: Tensor, head: Callable[[Tensor], Tensor] | None, cut: list[Any] | None
) -> tuple[Tensor, Tensor]:
    logits = hidden if head is None else head(hidden)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits.to(wide) / temperature[:, None]
    if cut is not None:
        logits = torch.where(_kept(cut, logits), logits, torch.full_like(logits, -torch.inf))
    logp = torch.log_softmax(logits, dim=-1)
    p = logp.exp()
    entropy = -(p * torch.where(p > 0, logp, torch.zeros_like(logp))).sum(-1)
    return logp.gather(1, ids[:, None]).squeeze(1), entropy


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
