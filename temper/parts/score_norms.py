"""How much a sample moves the model: norms of ∇ log π by logits (a forward pass) or by weights (a backward one)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import ALLOWED, HIDDEN, SUPPORT, TEMPERATURE, TOKEN, TRAJECTORY, Column, floating
from temper.errors import UserError
from temper.models import layout

SCORE_NORM = Column("score_norm", TOKEN, floating, "squared norm of the gradient of log π(y) by the logits, in [0, 2]")
GRADIENT_NORM = Column("gradient_norm", TRAJECTORY, floating, "norm of the gradient of Σ log π(y) by some weights")


@dataclass(frozen=True)
class ScoreNorm:
    """‖∇_logits log π(y)‖² = 1 − 2 π(y) + Σ_v π(v)²: a source for `Read`, exact by the tempered logits."""

    takes_head = True

    def __call__(self, b: Batch, head: Any) -> Tensor:
        return layout.score_norm(b, b[HIDDEN], head)


@dataclass
class GradientNorms:
    """GRADIENT_NORM of every trajectory: a backward pass each, through the weights with `which` in their name.

    which  for instance "embed_tokens" (GVM's choice, Yao et al. 2025, arXiv 2505.02391), or "" for all of them
    UserError where the learner is spread over processes, or no trained weight is meant.
    """

    policy: Any
    which: str = "embed_tokens"
    kind = "features"
    reads = ()
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = (GRADIENT_NORM,)

    async def __call__(self, b: Batch) -> Batch:
        learner = self.policy.learner
        if not hasattr(learner, "gradient_norms"):
            raise UserError("gradient norms of single samples need a learner in one process: leave out --learners")
        try:
            return b.put(GRADIENT_NORM, learner.gradient_norms(b, self.which))
        except KeyError as error:
            raise UserError(error.args[0])
