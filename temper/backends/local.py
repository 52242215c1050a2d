"""The local learner: one process, one device, micro-batches of whole trajectories under a token budget."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from temper.backends.base import AdamW, Source, Weights
from temper.carrier import Batch
from temper.columns import (
    ENTROPY,
    GROUP,
    HIDDEN,
    LOGP,
    TEMPERATURE,
    TOKEN,
    TRAJECTORY,
    TURN,
    Column,
    Level,
    floating,
    integer,
)  # fmt: skip
from temper.models import features, layout, load, routing
from temper.objective import Term
from temper.streaming import Begun, raw

BEHAVIOUR = LOGP.of("behaviour")
ROW = Column("row", TOKEN, integer, "the token's row in the batch that was cut into micro-batches")
_ROW_OF = Column("row_of", TRAJECTORY, integer, "the trajectory's row in that batch")


FULL, WASTE = 512, 1.25  # a micro-batch of FULL tokens ends where padding would make it WASTE times its tokens
Piece = tuple[Tensor, dict[Column, Tensor]]  # rows of the TOKEN table, and the values of columns there


@dataclass(frozen=True)
class Weighed:
    """A term in one optimiser step: its coefficient, the column of its weights, and their sum over what is computed."""

    term: Term
    coef: float
    weights: Column
    total: float


def weigh(batch: Batch, terms: Iterable[Term], step: int) -> tuple[Batch, list[Weighed]]:
    """Every term's weights, from the whole of `batch` before it is cut up, as columns of what is to be computed of it.

    What no term can learn from is left out (`computed`).
    """
    columns = {t.name: Column(f"weight:{t.name}", t.level, floating) for t in terms}
    batch = batch.put_all({columns[t.name]: t.weights(batch) for t in terms})
    seen = computed(batch, [(t, batch[columns[t.name]]) for t in terms])
    totals = {t.name: float(seen[columns[t.name]].sum().clamp(min=1e-12)) for t in terms}
    return seen, [Weighed(t, t.coefficient(step), columns[t.name], totals[t.name]) for t in terms]


def level_of(terms: Iterable[Term]) -> Level:
    """What has to stay in one micro-batch: a group when a term lives there, else a trajectory."""
    return GROUP if any(t.level == GROUP for t in terms) else TRAJECTORY


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
        self.recomputes = bool(getattr(load.plain(module), "is_gradient_checkpointing", False))
        self.own = nn.ModuleList(modules or [])
        self._prepare()
        self.step = 0
        self.begun = Begun()  # of the next optimiser step
        self.changed = False  # weights were copied in from elsewhere

    def _prepare(self) -> None:
        self._served = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        self._train(list(self._served.values()))

    @property
    def names(self) -> list[str]:
        """Of what is trained, in order."""
        own = [f"own/{n}" for n, _ in self.own.named_parameters()]
        return [*(n for n, p in self.module.named_parameters() if p.requires_grad), *own]

    def _train(self, weights: list[nn.Parameter]) -> None:
        """What is trained beside the terms' own, and the optimiser."""
        self.trained = [*weights, *self.own.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=self.spec.rate(0),
            betas=self.spec.betas,
            eps=self.spec.eps,
            weight_decay=self.spec.weight_decay,
        )

    # training ------------------------------------------------------------------------------------------------------

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        """One optimiser step on the whole of `batch`, of which only what terms can learn from is computed."""
        if self.begun.parts:
            return self._conclude(batch, terms)
        seen, weighed = weigh(batch, terms, self.step)
        return with_rest(self.advance(seen, weighed), batch, seen)

    def begin(self, part: Batch, terms: list[Term]) -> None:
        """The gradient of a part of the next step, before the rest of it is known (`temper.streaming`)."""
        seen, weighed = weigh(part, raw(terms), self.step)
        totals = self._accumulate(seen, weighed, fresh=not self.begun.parts)
        self.begun.add(part.size(TOKEN), seen, totals, [w.total for w in weighed])

    def _conclude(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        begun, self.begun = self.begun, Begun()
        scale, metrics, seen = begun.whole(batch, terms)
        for p in self.trained:
            if p.grad is not None:
                p.grad.mul_(scale)
        loss = sum(t.coefficient(self.step) * metrics.get(f"loss/{t.name}", 0.0) for t in terms)
        return with_rest({**metrics, "loss": loss, **self._optimise()}, batch, seen)

    def advance(self, seen: Batch, weighed: list[Weighed]) -> dict[str, float]:
        """One optimiser step on what `weigh` left."""
        metrics = summed(self._shares(self._accumulate(seen, weighed)), weighed)
        return {**metrics, **self._optimise()}

    def _shares(self, totals: dict[str, float]) -> list[dict[str, float]]:
        return [totals]

    def _accumulate(self, batch: Batch, weighed: list[Weighed], fresh: bool = True) -> dict[str, float]:
        """The gradient of the objective, micro-batch by micro-batch; returns sums of its metrics."""
        together = level_of(w.term for w in weighed)
        totals: dict[str, float] = {}
        if fresh:
            self._forget_gradients()
        with self._recomputing():
            for part in self._parts(batch, together):
                live = self._live(part)
                loss = objective(live, weighed, totals)
                _diagnose(totals, live, batch.size(TOKEN))
                self._backward(loss)
        return totals

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _parts(self, batch: Batch, together: Level) -> Iterator[Batch]:
        return cut(batch, self.token_budget, together, self.flat)

    def _backward(self, loss: Tensor) -> None:
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]

    def _optimise(self) -> dict[str, float]:
        rate = self.spec.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = self._clip(self.spec.clip or torch.inf)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        self.step += 1
        return {"grad_norm": float(norm), "learning_rate": rate, "stalled": float(not finite)}

    def _clip(self, limit: float) -> Tensor:
        """Scale the gradient down to the norm `limit`; its norm before that."""
        return torch.nn.utils.clip_grad_norm_(self.trained, limit)

    # reading -------------------------------------------------------------------------------------------------------

    def read(self, batch: Batch, columns: Mapping[Column, Source]) -> Batch:
        """`batch` with each target column written from its source: a live column, a function of the live batch, or a
        feature of attention (`temper.models.features`)."""
        return written(batch, columns, self._pieces(batch, columns))

    @torch.no_grad()
    def _pieces(self, batch: Batch, columns: Mapping[Column, Source]) -> Iterator[Piece]:
        watched = {target: x for target, x in columns.items() if features.is_attention(x)}
        for part in self._parts(batch.put(ROW, torch.arange(batch.size(TOKEN))), TRAJECTORY):
            live = self._live(part, watched)
            if part.size(TOKEN) == 0:
                continue
            sources = {target: target if target in watched else x for target, x in columns.items()}
            values = {target: live[x] if isinstance(x, Column) else self._of(x, live) for target, x in sources.items()}
            yield part[ROW], {target: x.detach().cpu() for target, x in values.items()}

    def _of(self, source: Any, live: Batch) -> Tensor:
        out: Tensor = source(live, self.head) if getattr(source, "takes_head", False) else source(live)
        return out

    def _live(self, part: Batch, watched: Mapping[Column, Any] | None = None) -> Batch:
        """`part` with the live columns: LOGP and ENTROPY on the CPU, HIDDEN where the model is; and what is watched."""
        if part.size(TOKEN) == 0:  # only trajectories in which nothing was sampled
            none = torch.zeros(0)
            return part.put(LOGP, none).put(ENTROPY, none).put(HIDDEN, torch.zeros(0, load.hidden_width(self.module)))
        r = layout.rectangle(part, self.flat)
        with self._autocast(), features.watching(self.module, part, r, watched or {}) as seen:
            hidden, logp, entropy = self._scored(part, r)
        for target, values in seen().items():
            part = part.put(target, values)
        part = part.put(LOGP, logp.cpu()).put(ENTROPY, entropy.cpu())
        return part.put(HIDDEN, hidden.float() if hidden.dtype == torch.bfloat16 else hidden)

    def gradient_norms(self, batch: Batch, which: str) -> Tensor:
        """[trajectories] ‖∇ Σ_t log π(y_t)‖ by the trained weights with `which` in their name; NaN without tokens.

        KeyError names the weights when none is meant.
        """
        meant = [p for name, p in self.module.named_parameters() if p.requires_grad and which in name]
        if not meant:
            names = sorted({n.rpartition(".")[0] for n, p in self.module.named_parameters() if p.requires_grad})
            raise KeyError(f"no trained weight has {which!r} in its name; there are {', '.join(names)}")
        out = torch.full((batch.size(TRAJECTORY),), torch.nan)
        rows = batch.put(_ROW_OF, torch.arange(batch.size(TRAJECTORY)))
        for part in cut(rows, self.token_budget, TRAJECTORY, self.flat):
            if part.size(TOKEN) == 0:
                continue
            total = part.sum(self._live(part)[LOGP], TOKEN, TRAJECTORY)
            for row, mine, n in zip(part[_ROW_OF].tolist(), total, part.count(TOKEN, TRAJECTORY).tolist()):
                if n:
                    by = torch.autograd.grad(mine, meant, retain_graph=True, allow_unused=True)
                    out[row] = sum(float(g.double().pow(2).sum()) for g in by if g is not None) ** 0.5
        return out

    def _scored(self, part: Batch, r: layout.Rectangle) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states, log-probs and entropies of the TOKEN rows."""
        routing.replay(self.module, part, r)
        hidden = layout.forward(self.module, r, self.head)
        return hidden, *layout.score(part, hidden, self.head)

    @contextlib.contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Gradient checkpointing acts in train mode only, where models sample without a cache: train mode just here."""
        inner = load.plain(self.module)
        if not self.recomputes:
            yield
            return
        inner.train()
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
        return {n: p.detach() for n, p in self._served.items()}

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
        if "sharded" in state:
            from temper.backends import fsdp_state

            state |= fsdp_state.training_of(folder, state["sharded"], self.names, self.optimizer.state_dict())
        self.load(state["weights"])
        self.own.load_state_dict(state["own"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def objective(live: Batch, weighed: Iterable[Weighed], totals: dict[str, float]) -> Tensor:
    """The micro-batch's share of the objective; adds that of its metrics to `totals`."""
    loss: Tensor = torch.zeros(())
    for w in weighed if live.size(TRAJECTORY) else ():
        weights = live[w.weights]
        values, metrics = w.term.values(live)
        kept = torch.where(weights > 0, values, torch.zeros_like(values))
        loss = loss + w.coef * (weights.to(kept.dtype) * kept).sum()
        _add(totals, f"loss/{w.term.name}", weights, values)
        for name, rows in metrics.items():
            _add(totals, name, weights / w.total, rows)
    return loss


def summed(shares: Iterable[Mapping[str, float]], weighed: Iterable[Weighed]) -> dict[str, float]:
    """Metrics of an optimiser step from those of its shares."""
    totals: dict[str, float] = {}
    for share in shares:
        for name, value in share.items():
            totals[name] = totals.get(name, 0.0) + value
    return {**totals, "loss": sum(w.coef * totals.get(f"loss/{w.term.name}", 0.0) for w in weighed)}


def with_rest(metrics: dict[str, float], whole: Batch, seen: Batch) -> dict[str, float]:
    """Metrics of what was computed; the entropy is a mean over what was not, too.

    There −log p of the token that was drawn stands for it, whose mean it is. Not for greedy tokens, and demonstrations.
    """
    if seen is whole or BEHAVIOUR not in whole or "entropy" not in metrics:
        return metrics
    (all_, n), (mine, m) = _surprise(whole), _surprise(seen)
    counted = seen.size(TOKEN) + n - m
    return {**metrics, "entropy": (metrics["entropy"] * seen.size(TOKEN) + all_ - mine) / max(1, counted)}


def _surprise(b: Batch) -> tuple[float, int]:
    """(Σ −log p, how many) over the tokens that were drawn at random."""
    drawn = b[BEHAVIOUR][b.at(TEMPERATURE, TOKEN) > 0].double()
    return -float(drawn.nansum()), int((~drawn.isnan()).sum())


def written(batch: Batch, columns: Iterable[Column], pieces: Iterable[Piece]) -> Batch:
    """`batch` with columns put together from pieces."""
    out: dict[Column, Tensor] = {}
    for rows, values in pieces:
        for target, x in values.items():
            if target not in out:
                out[target] = torch.full((batch.size(TOKEN), *x.shape[1:]), torch.nan, dtype=x.dtype)
            out[target][rows] = x
    for target in columns:
        batch = batch.put(target, out.get(target, torch.zeros(0)))
    return batch


def computed(b: Batch, terms: Sequence[tuple[Term, Tensor]]) -> Batch:
    """The part of `b` that can have a gradient: every unit (see `units`) with a row that some term learns from.

    terms  each with its weights [rows of its level]
    At least one unit is left: the optimiser is to see a gradient of zeros, not none.
    """
    rows = torch.zeros(b.size(TRAJECTORY), dtype=torch.bool)
    for term, w in terms:
        rows |= _any(b, term.learns(b, w), term.level)
    if bool(rows.all()) or not len(rows):
        return b
    unit = _linked(b, sampled_only=True, groups=level_of(t for t, _ in terms) == GROUP)
    keep = torch.zeros(int(unit.max()) + 1, dtype=torch.bool)
    keep[unit[rows]] = True
    if not bool(keep.any()):
        tokens = _sampled_tokens(b, unit)
        keep[torch.where(tokens > 0, tokens, tokens.max() + 1).argmin()] = True
    return b.select(keep[unit])


def _any(b: Batch, rows: Tensor, level: Level) -> Tensor:
    """[trajectories] whether one of `rows` [rows of level] belongs to it."""
    if level > TRAJECTORY:
        return rows[b.structure.group]
    return b.sum(rows.float(), level, TRAJECTORY) > 0


def _sampled_tokens(b: Batch, unit: Tensor) -> Tensor:
    """[units] tokens that the trajectories of each sampled."""
    return torch.zeros(int(unit.max()) + 1).index_add(0, unit, b.count(TOKEN, TRAJECTORY))


def units(b: Batch, token_budget: int, together: Level, flat: bool = False) -> Tensor:
    """[trajectories] number of the unit that each belongs to, which travels as a whole.

    A unit is a group (`together` = GROUP), else the trajectories that share a sampled turn; in one row without padding
    (`flat`) it is those that share any turn, as long as they fit the budget.
    """
    unit = _linked(b, sampled_only=True, groups=together == GROUP)
    if not flat or together == GROUP:
        return unit
    size = tokens_of(b, wide := _linked(b, sampled_only=False))
    fits = torch.tensor(size)[wide] <= token_budget
    return _number(torch.where(fits, wide, unit + int(wide.max()) + 1).tolist())


def cut(b: Batch, token_budget: int, together: Level, flat: bool = False) -> Iterator[Batch]:
    """Micro-batches of whole units, each at most `token_budget` tokens, padding included, and mostly not padding."""
    unit = units(b, token_budget, together, flat)
    tokens = tokens_of(b, unit)
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
        if not groups and not bool((turn.bincount() > 1).any()):
            return torch.arange(b.size(TRAJECTORY))  # nobody shares what was sampled
    first = torch.arange(b.size(TRAJECTORY))  # the first trajectory that each is known to be linked to
    while True:
        found = _lowest(first, turn, owner, b.size(TURN))
        found = _lowest(found, b.structure.group, torch.arange(len(found)), b.size(GROUP)) if groups else found
        found = found[found]
        if torch.equal(found, first):
            number: Tensor = torch.unique(first, return_inverse=True)[1]
            return number
        first = found


def _lowest(first: Tensor, key: Tensor, owner: Tensor, keys: int) -> Tensor:
    """`first`, lowered to the lowest of those that share a key."""
    least = torch.full((keys,), len(first)).scatter_reduce(0, key, first[owner], "amin")
    return first.scatter_reduce(0, owner, least[key], "amin")


def tokens_of(b: Batch, unit: Tensor) -> list[int]:
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
    if BEHAVIOUR in live:
        d = (live[LOGP].detach() - live[BEHAVIOUR]).nan_to_num(nan=0.0).clamp(-20, 20)
        k3 = torch.expm1(d) - d
        totals["policy_kl"] = totals.get("policy_kl", 0.0) + float(k3.sum()) / tokens
