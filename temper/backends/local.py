"""The local learner: one process, one device, micro-batches of whole trajectories under a token budget."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from temper.backends.base import AdamW, Source, Weights
from temper.carrier import Batch
from temper.columns import ENTROPY, GROUP, HIDDEN, LOGP, TOKEN, TRAJECTORY, Column, Level, floating, integer
from temper.models import features, layout, load
from temper.objective import Term

ROW = Column("row", TOKEN, integer, "the token's row in the batch that was cut into micro-batches")


FULL, WASTE = 512, 1.25  # a micro-batch of FULL tokens ends where padding would make it WASTE times its tokens


class LocalLearner:
    """Trains `module` in place.

    token_budget  padded tokens in one micro-batch (a trajectory or group longer than that still goes alone)
    autocast      compute dtype of the forward pass where it differs from the weights' (None: the weights')
    """

    def __init__(
        self,
        module: Any,
        optimizer: AdamW,
        modules: list[nn.Module] | None = None,
        *,
        tokenizer: Any = None,
        token_budget: int = 16384,
        autocast: torch.dtype | None = None,
    ):
        self.module, self.spec, self.tokenizer = module, optimizer, tokenizer
        self.token_budget, self.autocast = token_budget, autocast
        self.head = layout.head_of(module)
        self.flat = layout.can_pack(module)
        self.own = nn.ModuleList(modules or [])
        self.trained = [p for p in module.parameters() if p.requires_grad] + list(self.own.parameters())
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=optimizer.rate(0),
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        self.step = 0
        self.changed = False  # weights were copied in from elsewhere

    # training ------------------------------------------------------------------------------------------------------

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        """One optimiser step. Every term's weights are computed on the whole of `batch` before it is cut up."""
        weights = {t.name: t.weights(batch) for t in terms}
        levels = {t.name: Column(f"weight:{t.name}", t.level, floating) for t in terms}
        for t in terms:
            batch = batch.put(levels[t.name], weights[t.name])
        together = GROUP if any(t.level == GROUP for t in terms) else TRAJECTORY
        totals: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        with self._recomputing():
            for part in cut(batch, self.token_budget, together, self.flat):
                live = self._live(part)
                loss: Tensor = torch.zeros(())
                for t in terms:
                    w = part[levels[t.name]]
                    values, metrics = t.values(live)
                    kept = torch.where(w > 0, values, torch.zeros_like(values))
                    loss = loss + t.coefficient(self.step) * (w.to(kept.dtype) * kept).sum()
                    _add(totals, f"loss/{t.name}", w, values)
                    for name, rows in metrics.items():
                        _add(totals, name, w / weights[t.name].sum().clamp(min=1e-12), rows)
                _diagnose(totals, live, batch.size(TOKEN))
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
        totals["loss"] = sum(t.coefficient(self.step) * totals.get(f"loss/{t.name}", 0.0) for t in terms)
        return {**totals, **self._optimise()}

    def _optimise(self) -> dict[str, float]:
        rate = self.spec.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.spec.clip or torch.inf)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        self.step += 1
        return {"grad_norm": float(norm), "learning_rate": rate, "stalled": float(not finite)}

    # reading -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def read(self, batch: Batch, columns: Mapping[Column, Source]) -> Batch:
        """`batch` with each target column written from its source: a live column, a function of the live batch, or a
        feature of attention (`temper.models.features`)."""
        watched = {target: x for target, x in columns.items() if features.is_attention(x)}
        rows = batch.put(ROW, torch.arange(batch.size(TOKEN)))
        out: dict[Column, Tensor] = {}
        for part in cut(rows, self.token_budget, TRAJECTORY, self.flat):
            if part.size(TOKEN) == 0:
                continue
            live = self._live(part, watched)
            for target, source in columns.items():
                column = target if target in watched else source
                values = (live[column] if isinstance(column, Column) else column(live)).detach().cpu()
                if target not in out:
                    out[target] = torch.full((batch.size(TOKEN), *values.shape[1:]), torch.nan, dtype=values.dtype)
                out[target][part[ROW]] = values
        for target in columns:
            batch = batch.put(target, out.get(target, torch.zeros(0)))
        return batch

    def _live(self, part: Batch, watched: Mapping[Column, Any] | None = None) -> Batch:
        """`part` with the live columns: LOGP and ENTROPY on the CPU, HIDDEN where the model is; and what is watched."""
        if part.size(TOKEN) == 0:  # only trajectories in which nothing was sampled
            none = torch.zeros(0)
            return part.put(LOGP, none).put(ENTROPY, none).put(HIDDEN, torch.zeros(0, load.hidden_width(self.module)))
        r = layout.rectangle(part, self.flat)
        with self._autocast(), features.watching(self.module, part, r, watched or {}) as seen:
            hidden = layout.forward(self.module, r, self.head)
            logp, entropy = layout.score(part, hidden, self.head)
        for target, values in seen().items():
            part = part.put(target, values)
        part = part.put(LOGP, logp.cpu()).put(ENTROPY, entropy.cpu())
        return part.put(HIDDEN, hidden.float() if hidden.dtype == torch.bfloat16 else hidden)

    @contextlib.contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Gradient checkpointing acts in train mode only, where models sample without a cache: train mode just here."""
        inner = load.plain(self.module)
        inner.train(bool(getattr(inner, "is_gradient_checkpointing", False)))
        try:
            yield
        finally:
            inner.eval()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(next(self.module.parameters()).device.type, self.autocast)

    # weights and state ---------------------------------------------------------------------------------------------

    def weights(self) -> Weights:
        """The trained weights by name (adapters only under LoRA), without a copy."""
        return {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Copy `weights` in; KeyError names one that the model does not have."""
        self.changed = True
        mine = dict(self.module.named_parameters())
        for name, value in weights.items():
            mine[name].copy_(value)

    def save(self, folder: Path) -> None:
        load.save_model(self.module, self.tokenizer, folder / "model")
        state = {
            "weights": {n: p.detach().cpu().clone() for n, p in self.module.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "own": self.own.state_dict(),
            "step": self.step,
        }
        torch.save(state, folder / "training.pt")

    def restore(self, folder: Path) -> None:
        state = torch.load(folder / "training.pt", weights_only=True, map_location="cpu")
        self.load(state["weights"])
        self.own.load_state_dict(state["own"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def cut(b: Batch, token_budget: int, together: Level, flat: bool = False) -> Iterator[Batch]:
    """Micro-batches of whole units, each at most `token_budget` tokens, padding included, and mostly not padding.

    A unit is a group (`together` = GROUP), else the trajectories that share a sampled turn; in one row without padding
    (`flat`) it is those that share any turn, as long as they fit the budget.
    """
    unit = _linked(b, sampled_only=True, groups=together == GROUP)
    if flat and together != GROUP:
        tokens = _tokens(b, wide := _linked(b, sampled_only=False))
        fits = torch.tensor(tokens)[wide] <= token_budget
        unit = _number(torch.where(fits, wide, unit + int(wide.max()) + 1).tolist())
    tokens = _tokens(b, unit)
    counts, widths = ([1] * len(tokens), [1] * len(tokens)) if flat else (_chains(b, unit), _longest(b, unit))
    parts: list[list[int]] = [[]]
    rows = real = 0
    for u in sorted(range(len(tokens)), key=lambda u: (widths[u], u)):
        padded = real + tokens[u] if flat else (rows + counts[u]) * widths[u]
        wasteful = real >= FULL and padded > WASTE * (real + tokens[u])
        if parts[-1] and (padded > token_budget or wasteful):
            parts.append([])
            rows = real = 0
        parts[-1].append(u)
        rows, real = rows + counts[u], real + tokens[u]
    if parts[-1]:
        yield from _picked(b, unit, parts)


def _picked(b: Batch, unit: Tensor, parts: list[list[int]]) -> Iterator[Batch]:
    """The batch of each part's units; halved again and again, so that many parts cost little more than few."""
    if len(parts) == 1:
        yield b
        return
    half = len(parts) // 2
    for some in (parts[:half], parts[half:]):
        keep = torch.zeros(int(unit.max()) + 1, dtype=torch.bool)
        keep[[u for part in some for u in part]] = True
        yield from _picked(b.select(keep[unit]), unit[keep[unit]], some)


def _chains(b: Batch, unit: Tensor) -> list[int]:
    """Per unit, how many rows it takes."""
    turn, owner = b.structure.member
    unit_of = dict(zip(turn.tolist(), unit[owner].tolist()))
    counts = Counter(unit_of[path[-1]] for path in layout.chains(b))
    return [max(1, counts[u]) for u in range(int(unit.max()) + 1)]


def _number(keys: list[int]) -> Tensor:
    number = {k: n for n, k in enumerate(dict.fromkeys(keys))}
    return torch.tensor([number[k] for k in keys], dtype=torch.int64)


def _linked(b: Batch, sampled_only: bool, groups: bool = False) -> Tensor:
    """[trajectories] number of the set of trajectories that each is linked to by shared (sampled) turns or groups."""
    turn, owner = b.structure.member
    if sampled_only:
        keep = b.structure.sampled[turn]
        turn, owner = turn[keep], owner[keep]
    leader = list(range(b.size(TRAJECTORY)))

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    first: dict[int, int] = {}
    for u, j in zip(turn.tolist(), owner.tolist()):
        leader[root(j)] = root(first.setdefault(u, j))
    if groups:
        head: dict[int, int] = {}
        for j, g in enumerate(b.structure.group.tolist()):
            leader[root(j)] = root(head.setdefault(g, j))
    return _number([root(i) for i in range(len(leader))])


def _tokens(b: Batch, unit: Tensor) -> list[int]:
    """Per unit, the tokens of its turns, each turn counted once."""
    turn, owner = b.structure.member
    pairs = torch.unique(torch.stack([unit[owner], turn]), dim=1)
    total = torch.zeros(int(unit.max()) + 1, dtype=torch.int64)
    return total.index_add(0, pairs[0], b.structure.start.diff()[pairs[1]]).clamp(min=1).tolist()


def _longest(b: Batch, unit: Tensor) -> list[int]:
    """Per unit, the longest context of its turns in tokens."""
    depth = b.structure.start.diff().tolist()
    for turn, parent in enumerate(b.structure.parent.tolist()):
        depth[turn] += depth[parent] if parent >= 0 else 0
    turn, owner = b.structure.member
    out = torch.ones(int(unit.max()) + 1, dtype=torch.int64)
    return out.scatter_reduce(0, unit[owner], torch.tensor(depth)[turn], "amax").tolist()


def _add(totals: dict[str, float], name: str, weights: Tensor, values: Tensor) -> None:
    kept = torch.where(weights > 0, values.detach(), torch.zeros_like(values))
    totals[name] = totals.get(name, 0.0) + float((weights.to(kept.dtype) * kept).sum())


def _diagnose(totals: dict[str, float], live: Batch, tokens: int) -> None:
    """Entropy, and how far the policy is from the sampler's log-probs (k3 estimate, nats a token)."""
    totals["entropy"] = totals.get("entropy", 0.0) + float(live[ENTROPY].detach().sum()) / tokens
    behaviour = LOGP.of("behaviour")
    if behaviour in live:
        d = (live[LOGP].detach() - live[behaviour]).nan_to_num(nan=0.0).clamp(-20, 20)
        k3 = torch.expm1(d) - d
        totals["policy_kl"] = totals.get("policy_kl", 0.0) + float(k3.sum()) / tokens
