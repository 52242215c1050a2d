"""NExt (extrapolation)

Paper: Chen et al., "Low-rank Optimization Trajectories Modeling for LLM RLVR Acceleration", 2026, arXiv 2604.11446;
code RUCAIBox/NExt.
Hook: optimiser (weights are kept on the way, and jump ahead between two phases).
Claim: about 37.5 % less compute to the same accuracy; the way of the weights is mostly rank 1 and not a straight line.

    phase 1: RL, keeping W_t every few steps.  Of every matrix σ₁ u v' of
    Δg = W_t − W_0,   Δl = W_t − W_{t−1},   Δ* = W_{t+h} − W_t;   a network for each shape learns (Δg, Δl) → Δ*
    W = W_last + c σ̂ û v̂',  c from {½, 1, … 4} by validation;  phase 2: RL goes on with fresh optimiser moments

The sign of u v' is fixed (largest entry of u positive; the published code leaves it to the decomposition). Merged
weights are extrapolated, never the two factors of an adapter. Validation tasks are neither trained nor tested on.
Left out: the published networks, whose hidden layers are as narrow as the piece (a single unit for σ, which dies) and
have biases: here they are 256 wide and have none, without which the magnitude is off even on a synthetic way. Vectors
have networks of their own, apart from u's; pieces are scaled by the largest of their kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.method import Method
from temper.methods.objectives.grpo import grpo
from temper.parts.trajectories import KeepWeights, continued, kept, rank_one_share

SLUG = "next-extrapolation"
TITLE = "NExt (extrapolation)"
PAPER = "arXiv 2604.11446"
FAMILY = "objectives"
HOOKS = ("optimiser",)
RECIPE = "next-extrapolation"


@dataclass
class Jump:
    """Before the first step of a run: weights that continue the way kept in `folder`, as far as validation says.

    ahead         stretches of that way to predict; coefficients: the c that are tried, of equals the smallest
    epochs, lr    of the predictor
    """

    policy: Any
    folder: Path
    validation: Evaluation
    ahead: int = 5
    coefficients: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    epochs: int = 1000
    lr: float = 2e-5
    seed: int = 0
    done: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.coefficients:
            raise UserError("there is no coefficient to choose from: give at least one")

    def due(self, step: int, steps: int) -> bool:
        return step == 0 and not self.done

    async def __call__(self, run: Any, step: int) -> dict[str, float]:
        if step or self.done:
            return {}
        last = {n: w.detach().clone() for n, w in self.policy.learner.weights().items()}
        path = [*kept(self.folder), last]
        way = continued(path, self.ahead, epochs=self.epochs, lr=self.lr, seed=self.seed)
        passed = {c: await self._tried(run, last, way, c) for c in self.coefficients}
        best = max(sorted(passed), key=lambda c: passed[c])
        await self._go(run, last, way, best)
        self.done = True
        if run.steps == 0 and run.out is not None:  # nothing else will
            run.save(0)
        moved = {n: last[n].cpu() - path[0][n].cpu() for n in way}
        return {
            "jump/coefficient": best, "jump/validation": passed[best], "jump/rank_one_share": rank_one_share(moved),
        }  # fmt: skip

    async def _tried(self, run: Any, last: dict[str, Tensor], way: dict[str, Tensor], c: float) -> float:
        """Share of right answers on the validation tasks."""
        await self._go(run, last, way, c)
        answers = await self.validation.play(run)
        right = [r for a in answers for r in a.passed(self.validation.threshold)]
        return sum(right) / max(len(right), 1)

    async def _go(self, run: Any, last: dict[str, Tensor], way: dict[str, Tensor], c: float) -> None:
        self.policy.learner.load({n: last[n] + (c * x).to(last[n].device, last[n].dtype) for n, x in way.items()})
        if hasattr(self.policy.sampler, "forget"):
            self.policy.sampler.forget()
        await run.publish([{"jump/coefficient": c}])  # samplers of their own change for a newer version only
        run.first = {p.name: p.version for p in run.policies.values() if p.trainable}

    def state_dict(self) -> dict[str, bool]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        self.done = state["done"]


def next_extrapolation(
    policy: Any, *, folder: Path | None = None, every: int = 10, clip: float = 0.2, minibatches: int = 1
) -> Method:
    """GRPO. folder: where the weights are kept every `every` optimiser steps (None: they are not); see `Jump`."""
    method = grpo(policy, clip=clip, minibatches=minibatches)
    if folder is not None:
        method.before.append(KeepWeights(folder, every))
    return method
