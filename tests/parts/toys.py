"""Small batches, and a policy that is one softmax: every gradient can be worked out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ENTROPY, GROUP, HIDDEN, LOGP, REWARD, TOKEN, TRAJECTORY, Column, floating, integer
from temper.episode import Completion, Episode, Recorder
from temper.objective import Term
from temper.tasks.task import Task

nan = float("nan")
BEHAVIOUR = LOGP.of("behaviour")
VOCABULARY = 5


def run(stage: Any, b: Batch) -> Batch:
    """The batch after `stage`."""
    return asyncio.run(stage(b))


def recorder(name: str = "t") -> Recorder:
    return Recorder(Task(name, "?"))


def said(n: int, shift: int = 0, **fields: Any) -> Completion:
    """A completion of n tokens with behaviour log-prob −1 each."""
    ids = tuple((i * 3 + shift) % VOCABULARY for i in range(n))
    return Completion(ids, (-1.0,) * n, **fields)


def batch(lengths: Sequence[Sequence[int]], rewards: Sequence[Sequence[float]] | None = None) -> Batch:
    """One group a row, one trajectory a length; a prompt, then one sampled turn. Without rewards they are absent."""
    episodes = []
    for g, row in enumerate(lengths):
        for i, n in enumerate(row):
            r = recorder(f"t{g}")
            turn = r.sampled(said(n, shift=g + i), r.add((0, 1)))
            r.judge((0, turn), reward=None if rewards is None or rewards[g][i] != rewards[g][i] else rewards[g][i])
            episodes.append(of_request(r, str(g)))
    b = Batch.of(episodes)
    if rewards is not None and REWARD not in b:
        b = b.put(REWARD, torch.full((b.size(TRAJECTORY),), nan))
    return b


def of_request(r: Recorder, request: str) -> Episode:
    e = r.episode()
    return Episode(e.task, e.turns, e.trajectories, request)


def tree(rewards: tuple[float | None, float | None] = (1.0, 0.0)) -> Batch:
    """Two trajectories: a shared sampled turn of 2 tokens, then 1 and 3 tokens of their own (rows 0 1 | 2 | 3 4 5)."""
    r = recorder()
    stem = r.sampled(said(2), r.add((0, 1)))
    left, right = r.sampled(said(1, 1), stem), r.sampled(said(3, 2), stem)
    r.judge((0, stem, left), reward=rewards[0])
    r.judge((0, stem, right), reward=rewards[1])
    return Batch.of([r.episode()])


def column(b: Batch, key: Column, values: Sequence[float]) -> Batch:
    return b.put(key, torch.tensor(values, dtype=torch.float64))


def close(x: Tensor, y: Sequence[float], tolerance: float = 1e-6) -> bool:
    """Equal within `tolerance`, NaN where NaN."""
    return torch.allclose(x.double(), torch.tensor(y, dtype=torch.float64), atol=tolerance, rtol=0, equal_nan=True)


# a softmax policy -----------------------------------------------------------------------------------------------------

ROW = Column("row_weight", TOKEN, floating)
INDEX = Column("index", TOKEN, integer)


class SoftmaxPolicy:
    """A policy handle and its learner in one: log π(token) = log softmax(θ)[token] whatever came before."""

    def __init__(self, seed: int = 0, lr: float = 0.5):
        self.theta = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.lr, self.step = lr, 0

    @property
    def learner(self) -> SoftmaxPolicy:
        return self

    def live(self, b: Batch, theta: Tensor) -> Batch:
        logp = theta.log_softmax(0)
        entropy = -(logp.exp() * logp).sum().expand(b.size(TOKEN))
        hidden = torch.nn.functional.one_hot(b.token_ids, VOCABULARY).to(theta.dtype)
        return b.put(LOGP, logp[b.token_ids]).put(ENTROPY, entropy).put(HIDDEN, hidden)

    def read(self, b: Batch, columns: Any) -> Batch:
        with torch.no_grad():
            live = self.live(b, self.theta)
            for target, source in columns.items():
                b = b.put(target, live[source] if isinstance(source, Column) else source(live))
        return b

    def update(self, b: Batch, terms: list[Term]) -> dict[str, float]:
        gradient = self.gradient(b, terms)
        self.theta = self.theta - self.lr * gradient
        for parameter in (p for t in terms for m in getattr(t.loss, "modules", ()) for p in m.parameters()):
            parameter.data -= self.lr * parameter.grad
            parameter.grad = None
        self.step += 1
        return {"grad_norm": gradient.norm().item()}

    def gradient(self, b: Batch, terms: list[Term], parts: Sequence[Tensor] | None = None) -> Tensor:
        """∂objective/∂θ, summed over micro-batches of the given trajectories (None: all at once)."""
        theta = self.theta.clone().requires_grad_()
        weighted = b
        for t in terms:
            weighted = weighted.put(weight_of(t), t.weights(b).double())
        pieces = [weighted] if parts is None else [weighted.select(keep) for keep in parts]
        for piece in pieces:
            objective(self.live(piece, theta), terms, self.step).backward()
        assert theta.grad is not None
        return theta.grad

    def weights(self) -> dict[str, Tensor]:
        return {"theta": self.theta}

    def load(self, weights: dict[str, Tensor]) -> None:
        self.theta = weights.get("theta", self.theta)


def weight_of(t: Term) -> Column:
    return Column(f"weight:{t.name}", t.level, floating)


def objective(live: Batch, terms: list[Term], step: int = 0) -> Tensor:
    """Σ coef · Σ weights · values."""
    total = torch.zeros((), dtype=torch.float64)
    for t in terms:
        w, (values, _) = live[weight_of(t)], t.values(live)
        total = total + t.coefficient(step) * (w * values.where(w > 0, torch.zeros_like(values))).sum()
    return total


def partition(b: Batch, level: int, parts: int, seed: int) -> list[Tensor]:
    """Micro-batches of whole trajectories or groups, dealt at random: masks [trajectories]."""
    g = torch.Generator().manual_seed(seed)
    owner = torch.randint(parts, (b.size(GROUP if level == GROUP else TRAJECTORY),), generator=g)
    owner = owner[b.structure.group] if level == GROUP else owner
    return [owner == p for p in range(parts) if bool((owner == p).any())]
