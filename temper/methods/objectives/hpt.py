"""HPT (Hybrid Post-Training)

Paper: Lv et al., "Towards a Unified View of Large Language Model Post-Training", 2025, arXiv 2509.04419; code
TsinghuaC3I/Unify-Post-Training.
Hook: rollout (attempts that fail are exchanged for one worked answer), loss (reinforcement or imitation, by the row).
Claim: 7 points above the best baseline on AIME 2024 with Qwen2.5-Math-7B; pass@k is kept.

    P = right attempts of a task. P > gate: −A·log π with A = r − mean, summed over a constant length;
    P ≤ gate: the attempts go, one worked answer stays, with −log π averaged over all tokens of worked answers
    L = L_RL + c·L_SFT

The estimator is (1/π_ref)·A·∇π: its denominator is π_θ for imitation (A = 1), π_old for PPO, 1 for offline methods.
Left out: nothing of HPT itself; SRFT and LUFFY, which the same code holds, are other methods. A task without a worked
answer keeps its attempts. Correctness is the judge's reward, before any shaping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temper.carrier import Batch
from temper.columns import REWARD
from temper.method import Method
from temper.objective import SeqMeanTokenSumNorm, Term, token_mean
from temper.parts.advantages import Advantage, unscaled
from temper.parts.demonstrations import AddDemonstration
from temper.parts.gates import DEMONSTRATION, MarkDemonstrations
from temper.parts.losses import EntropyBonus, Surrogate
from temper.parts.sft import NLL

SLUG = "hpt"
TITLE = "HPT (Hybrid Post-Training)"
PAPER = "arXiv 2509.04419"
FAMILY = "objectives"
HOOKS = ("rollout", "loss")
RECIPE = "hpt"


@dataclass(frozen=True)
class FewRight:
    """Whether at most `gate` attempts of a group are right (reward above `threshold`)."""

    gate: int = 0
    threshold: float = 0.0

    def __call__(self, b: Batch) -> bool:
        return int((b[REWARD] > self.threshold).sum()) <= self.gate


def hpt(
    policy: Any,
    *,
    gate: int = 0,
    imitation: float = 1.0,
    entropy: float = 1e-3,
    length: int = 8192,
    minibatches: int = 1,
) -> Method:
    """gate: see `FewRight` (2 for weaker models); imitation: c (0.3 for a 1.5B model); length: the constant."""
    per = SeqMeanTokenSumNorm(length)
    bonus = [Term("entropy", EntropyBonus(), coef=entropy, per=per)] if entropy else []
    swap = AddDemonstration(policy, when=FewRight(gate), replace=True)
    return Method(
        on_group=[swap, Advantage(scale=unscaled), MarkDemonstrations()],
        terms=[
            Term("policy", Surrogate(), per=per),
            Term("imitation", NLL(), coef=imitation, per=token_mean, where=DEMONSTRATION),
            *bonus,
        ],
        minibatches=minibatches,
    )
