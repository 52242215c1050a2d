"""RLSP

Paper: Ye et al., "On the Emergence of Thinking in LLMs I: Searching for the Right Intuition", 2025, arXiv 2502.06773;
code GuanghaoYe/Emergence-of-Thinking.
Hook: reward (an exploration term that does not ask for correctness), loss (PPO whose actor waits for its critic).
Claim: Llama-3.1-8B 23 % more on MATH-500, Qwen2.5-32B 10 % more on AIME 2024; backtracking and verification appear.

    r = 1 right, 0 wrong, −½ without an answer;  length: r − min(λ/len, cap), len of what comes before the answer
    effort: 0.8·r + 0.2·e with a judge's e ∈ [0, 1] (½ where it says nothing);  both: one after the other
    the shaped reward is divided by its running deviation, its mean taken off

len is characters over 4, of the thinking only, so that nothing is gained behind the answer. Below λ characters the
term is larger than a right answer: hence the cap. For the first `freeze` optimiser steps only the critic learns, on
hidden states without gradient, so that the actor's weights stay to the bit.
Left out: the supervised start; an actor and a critic with trunks and rates of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import CORE, REWARD
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Whiten
from temper.parts.kl import TOKEN_REWARD, KLReward
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip
from temper.parts.rewards import rows_of
from temper.parts.schedules import StepAt
from temper.parts.shaping import SHAPED
from temper.parts.values import GAE, ValueHead, ValueLoss, old_values
from temper.rewards.checkers import final_part
from temper.stage import Stage

SLUG = "rlsp"
TITLE = "RLSP"
PAPER = "arXiv 2502.06773"
FAMILY = "objectives"
HOOKS = ("reward", "loss")
RECIPE = "rlsp"

Effort = Callable[[str], float | None]


def exploration(completion: str, scale: float, cap: float) -> float:
    """−min(scale/len, cap): rises with the length of the thinking, and saturates."""
    length = len(completion.rpartition("</think>")[0]) / 4
    return -min(scale / length, cap) if length else -cap


@dataclass
class ThinkingReward:
    """SHAPED from REWARD (1 right), the length of thinking and a judge's effort, normalised by running moments."""

    scale: float = 1000.0
    cap: float = 0.5
    effort: Effort | None = None
    normalise: bool = True
    moments: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # n, mean, Σ (r − mean)²
    reads = (REWARD,)
    uses = CORE
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        said = [row.completion for row in rows_of(b)]
        missing = torch.tensor([not final_part(text) for text in said])
        r = torch.where(missing & ~b[REWARD].isnan(), -0.5, b[REWARD])
        if self.scale:
            r = r + torch.tensor([exploration(text, self.scale, self.cap) for text in said])
        if self.effort is not None:
            found = [self.effort(text) for text in said]
            r = 0.8 * r + 0.2 * torch.tensor([0.5 if e is None else e for e in found])
        return b.put(SHAPED, self.normalised(r) if self.normalise else r)

    def normalised(self, r: torch.Tensor) -> torch.Tensor:
        """Welford's moments over every judged reward of the run, those at hand included."""
        n, mean, squares = self.moments
        for x in r[~r.isnan()].tolist():
            n, gap = n + 1, x - mean
            mean += gap / n
            squares += gap * (x - mean)
        self.moments = [n, mean, squares]
        deviation = (squares / (n - 1)) ** 0.5 if n > 1 else 1.0
        return (r - mean) / (deviation + 1e-8 if deviation else 1.0)

    def state_dict(self) -> dict[str, list[float]]:
        return {"moments": list(self.moments)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.moments = list(state["moments"])


def rlsp(
    policy: Any, *, reference: Any = None, beta: float = 0.05, scale: float = 1000.0, cap: float = 0.5,
    effort: Effort | None = None, normalise: bool = True, freeze: int = 4, clip: float = 0.2, epochs: int = 1,
    minibatches: int = 1,
) -> Method:  # fmt: skip
    """scale (λ), cap, effort: see `ThinkingReward`; freeze: optimiser steps before the actor learns."""
    head = ValueHead()
    penalty: list[Stage] = [] if reference is None else [reference_logp(reference), KLReward(beta)]
    gae = GAE(1.0, 1.0, SHAPED, TOKEN_REWARD if penalty else None)
    return Method(
        on_batch=[ThinkingReward(scale, cap, effort, normalise), *penalty, old_values(policy, head), gae, Whiten()],
        terms=[
            Term("policy", Clip(clip, clip), coef=StepAt(0.0, 1.0, freeze), per=token_mean),
            Term("value", ValueLoss(head, train_trunk=False), per=token_mean),
        ],
        epochs=epochs,
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
