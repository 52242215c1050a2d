"""RECAP

Paper: "Beyond Reasoning Gains: Mitigating General Capabilities Forgetting in Large Reasoning Models", 2025, arXiv
2510.21978.
Hook: curriculum (general data replayed in equal shares), advantage (objectives weighted by how they move).
Claim: trained on reasoning alone LISA falls from 65.1 to 57.6, with RECAP it is 67.2 and reasoning is kept; the weight
of the format falls as it saturates.

    of objective k, over windows of W steps of L_k = 1 − mean reward:  c = μ/μ̃ (this window over the one before),
    i = σ/(μ + μ̃);  λ_k = K·softmax_k((c + i)/T), T = 5;  A = (1/K) Σ_k λ_k A_k, A_k the z-score of part k in the group

L_k has to be a quantity that is not negative: losses of a policy gradient hover around 0, and their ratios mean
nothing. All weights are 1 until an objective has 2W steps; a step in which it has no data is no step of its window.
Left out: objectives that are no rewards (next tokens of general text): add them as a term of your own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY, Column
from temper.errors import UserError
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import GROUP_STD, group_mean
from temper.parts.domains import balanced
from temper.parts.losses import Clip

SLUG = "recap"
TITLE = "RECAP"
PAPER = "arXiv 2510.21978"
FAMILY = "objectives"
HOOKS = ("curriculum", "advantage")
RECIPE = "recap"


@dataclass
class Reweighted:
    """ADVANTAGE from the parts REWARD.of(name); its memory is the last 2W values of every part."""

    parts: tuple[str, ...]
    window: int = 20
    temperature: float = 5.0
    history: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    writes = (ADVANTAGE,)

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("RECAP weighs rewards against one another: name at least one")

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(REWARD.of(name) for name in self.parts)

    async def __call__(self, b: Batch) -> Batch:
        total: Tensor | None = None
        for name, weight in self.weights(b).items():
            r = b[REWARD.of(name)]
            z = weight * (r - group_mean(b, r)) / GROUP_STD(b, r) / len(self.parts)
            total = z if total is None else torch.where(z.isnan(), total, torch.where(total.isnan(), z, total + z))
        assert total is not None
        return b.put(ADVANTAGE, b.spread(total, TRAJECTORY, TOKEN))

    def weights(self, b: Batch) -> dict[str, float]:
        """λ, with this step in the windows."""
        for name in self.parts:
            left = 1 - float(b[REWARD.of(name)].nanmean())
            if left == left:
                self.history[name] = [*self.history.get(name, []), max(left, 0.0)][-2 * self.window :]
        out = self.balance()
        self.metrics = {f"recap/weight/{name}": weight for name, weight in out.items()}
        return out

    def balance(self) -> dict[str, float]:
        if any(len(self.history.get(name, [])) < 2 * self.window for name in self.parts):
            return dict.fromkeys(self.parts, 1.0)
        score = torch.tensor([self._score(self.history[name]) for name in self.parts])
        return dict(zip(self.parts, (len(self.parts) * (score / self.temperature).softmax(0)).tolist()))

    def _score(self, values: list[float]) -> float:
        before, now = values[: self.window], values[self.window :]
        old, new = fmean(before), fmean(now)
        return new / max(old, 1e-6) + pstdev(now) / max(old + new, 1e-6)

    def state_dict(self) -> dict[str, Any]:
        return {"history": {name: list(values) for name, values in self.history.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = {name: list(values) for name, values in state["history"].items()}


def recap(
    policy: Any, *, parts: tuple[str, ...], window: int = 20, temperature: float = 5.0, clip: float = 0.2,
    minibatches: int = 1,
) -> Method:  # fmt: skip
    """parts: names of the rewards; window, temperature: W and T."""
    return Method(
        on_batch=[Reweighted(parts, window, temperature)],
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean)],
        minibatches=minibatches,
        curriculum=balanced,
    )
