"""A Learner whose weights, gradients and optimiser are sharded over ranks (`temper.backends.fsdp`).

It computes what must be the same everywhere (the weights of every row, coefficients, the learning rate), sends batch
and terms to all ranks, and puts their answers together. Who the ranks are is `ranks`' business: processes of this
machine (`temper.backends.fsdp_processes`), or actors of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from temper.backends.adapters import BaseLearner
from temper.backends.base import Source, Weights
from temper.backends.fsdp import Setup
from temper.backends.local import weigh, with_rest, written
from temper.carrier import Batch
from temper.columns import Column
from temper.errors import UserError
from temper.models import layout
from temper.objective import Term, token_mean


class Ranks(Protocol):
    """All ranks of one learner. `open` with a Setup comes first; else `method` is one of `Rank`'s."""

    def call(self, method: str, *args: Any, modules: Sequence[nn.Module] = ()) -> list[Any]:
        """Each rank's result. modules: parameters that terms own; in `args` they stand for the ranks' own."""
        ...

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        """What rank 0 yields; all of it must be taken."""
        ...

    def close(self) -> None: ...


class FSDPLearner:
    """Trains what `setup` describes on `ranks`.

    module  the same model in this process, for a sampler here: `weights` brings it up to date (None: there is none)
    """

    def __init__(self, setup: Setup, ranks: Ranks, module: Any = None, tokenizer: Any = None):
        self.setup, self.ranks, self.module, self.tokenizer = setup, ranks, module, tokenizer
        self.spec, self.own, self.token_budget = setup.optimizer, nn.ModuleList(setup.modules), setup.token_budget
        self.autocast = torch.bfloat16 if setup.dtype == "bfloat16" else None
        self.flat = module is not None and layout.can_pack(module)
        self.trained = [p for p in self._here().values() if p.requires_grad] + list(self.own.parameters())
        self.step = 0
        self.changed = False  # weights were copied in from elsewhere
        try:
            self.ranks.call("open", replace(setup, optimizer=replace(setup.optimizer, lr=self.spec.rate(0))))
        except BaseException:
            self.ranks.close()
            raise

    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        """One optimiser step on the whole of `batch`."""
        seen, weighed = weigh(batch, terms, self.step)
        sent = [replace(w, term=replace(w.term, coef=w.coef, per=token_mean)) for w in weighed]
        rate = self.spec.rate(self.step)
        metrics = self.ranks.call("advance", seen, sent, rate, modules=list(self.own))[0]
        self.step += 1
        if len(self.own):
            self._follow()
        return with_rest(metrics, batch, seen)

    def read(self, batch: Batch, columns: Mapping[Column, Source], base: bool = False) -> Batch:
        """See LocalLearner. base: with adapters off."""
        shares = self.ranks.call("pieces", batch, dict(columns), base, modules=list(self.own))
        return written(batch, columns, [piece for share in shares for piece in share])

    def gradient_norms(self, batch: Batch, which: str) -> Tensor:
        raise UserError("gradients of single trajectories need a learner that is not sharded: learners=1")

    @torch.no_grad()
    def weights(self) -> Weights:
        """The trained weights by name, gathered one after another, into this process's module where there is one."""
        mine, found = self._here(), {}
        for name, value in self.ranks.stream("gathered"):
            found[name] = mine[name].detach().copy_(value) if name in mine else value
        return found

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Copy `weights` in; KeyError names one that the model does not have."""
        self.changed = True
        mine = self._here()
        for name in mine.keys() & weights.keys():
            mine[name].copy_(weights[name])
        self.ranks.call("load", {n: w.detach().cpu() for n, w in weights.items()})

    def _here(self) -> dict[str, nn.Parameter]:
        return {} if self.module is None else dict(self.module.named_parameters())

    def save(self, folder: Path) -> None:
        self.ranks.call("save", folder)

    def restore(self, folder: Path) -> None:
        self.ranks.call("restore", folder)
        self.changed = True
        self.step = self._follow()
        self.weights()

    def _follow(self) -> int:
        """Bring this process's copies of the terms' own parameters up to date; the step."""
        step, own = self.ranks.call("progress")[0]
        self.own.load_state_dict(own)
        return int(step)

    def base(self) -> BaseLearner:
        return BaseOfRanks(self)

    def close(self) -> None:
        self.ranks.close()


class BaseOfRanks(BaseLearner):
    """The model that a LoRA policy started from, read by the policy's ranks with their adapters off."""

    def __init__(self, learner: FSDPLearner):
        self.learner, self.module, self.tokenizer = learner, learner.module, learner.tokenizer
        self.flat, self.changed, self.trained = learner.flat, False, []

    def read(self, batch: Batch, columns: Mapping[Column, Source]) -> Batch:
        return self.learner.read(batch, columns, base=True)
