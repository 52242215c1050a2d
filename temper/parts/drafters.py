"""A drafter's training beside the policy's: on what rollouts leave behind, between steps (Hu et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from temper import streams
from temper.carrier import Batch
from temper.columns import ALLOWED, HIDDEN, SUPPORT, TEMPERATURE
from temper.models.drafter import HiddenDrafter, Sample

STATES = HIDDEN.of("drafter")


@dataclass
class TrainDrafter:
    """After every `every`-th batch of the first `until`: `updates` optimiser steps on `batch` of the newest answers.

    lr, warmup  of AdamW, reached linearly in that many optimiser steps
    newest      steps whose answers are drawn from; kept: answers of each
    """

    policy: Any
    lr: float = 1e-6
    warmup: int = 1000
    updates: int = 10
    batch: int = 16
    every: int = 10
    until: int | None = None
    newest: int = 2
    kept: int = 5000
    reads = ()
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = ()

    def __post_init__(self) -> None:
        self.step, self.trained, self.counted = 0, 0, (0, 0)
        self.buffer: list[list[Sample]] = []
        self.optimizer: Any = None
        self.metrics: dict[str, float] = {}

    async def __call__(self, b: Batch) -> Batch:
        sampler, speculation = self.policy.sampler, self.policy.drafts
        speculation.score()
        passes, tokens = self._uncounted()
        self.counted = sampler.passes, sampler.tokens
        self.metrics = {"drafter/passes_per_token": passes / max(1, tokens)}
        if self.step % self.every == 0 and (self.until is None or self.step < self.until):
            self._build()
            self.buffer = [*self.buffer, self._answers(b)][-self.newest :]
            self.metrics |= self._train(speculation.drafter)
            speculation.idle = speculation.wait = 0  # another drafter: look anew whether it pays
        self.step += 1
        return b

    def _build(self) -> None:
        drafter = self.policy.drafts.drafter
        if self.optimizer is None:
            drafter.build(self.policy.learner.module)
            self.optimizer = torch.optim.AdamW(drafter.net.parameters(), lr=self.lr)

    def _answers(self, b: Batch) -> list[Sample]:
        states = self.policy.learner.read(b, {STATES: HIDDEN})[STATES]
        turns = torch.bincount(b.structure.token_turn).tolist()
        parts = zip(b.token_ids.split(turns), states.split(turns))
        return [(i.clone(), h.clone()) for i, h in parts if len(i) > 2][: self.kept]

    def _train(self, drafter: HiddenDrafter) -> dict[str, float]:
        known = [s for step in self.buffer for s in step]
        said: dict[str, float] = {}
        for _ in range(self.updates if known else 0):
            draw = streams.generator(0, "drafter", self.trained)
            chosen = draw.choice(len(known), min(self.batch, len(known)), replace=False)
            loss, hit = drafter.loss([known[i] for i in chosen])
            parameters = list(drafter.net.parameters())  # type: ignore[union-attr]
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
                p.grad = g
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.trained += 1
            self.optimizer.param_groups[0]["lr"] = self.lr * min(1.0, self.trained / max(1, self.warmup))
            self.optimizer.step()
            said = said or {
                "drafter/loss": float(loss.detach()),
                "drafter/agreement": float(hit),
            }  # before this batch taught
        return said

    def _uncounted(self) -> tuple[int, int]:
        """(passes, tokens) since the last batch."""
        sampler = self.policy.sampler
        return sampler.passes - self.counted[0], sampler.tokens - self.counted[1]

    def state_dict(self) -> dict[str, Any]:
        drafts = self.policy.drafts
        made = self.optimizer is not None
        return {
            "step": self.step,
            "uncounted": self._uncounted(),
            "trained": self.trained,
            "buffer": self.buffer,
            "drafts": drafts.state_dict(),
            "net": drafts.drafter.net.state_dict() if made else {},
            "optimizer": self.optimizer.state_dict() if made else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.trained, self.buffer = state["step"], state["trained"], state["buffer"]
        sampler, (passes, tokens) = self.policy.sampler, state["uncounted"]
        self.counted = sampler.passes - passes, sampler.tokens - tokens
        self.policy.drafts.load_state_dict(state["drafts"])
        if state["net"]:
            self._build()
            self.policy.drafts.drafter.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
