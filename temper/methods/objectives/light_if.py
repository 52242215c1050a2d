"""Light-IF

Paper: "Light-IF: Endowing LLMs with Generalizable Reasoning via Preview and Self-Checking for Complex Instruction
Following", 2025, arXiv 2508.03178; code Qihoo360/Light-IF.
Hook: gate (which tokens of a demonstration are imitated), loss (an entropy bonus for each token).
Claim: a 32B model above larger ones on SuperCLUE, IFEval, CFBench and IFBench; entropy stays above GRPO's at equal
reward.

    Entropy-SFT (`entropy_sft`): of a batch only the 20 % of tokens with the largest −log π − c·H are imitated: hard
    ones of which the model is sure
    TEA-RL (`light_if`): loss = PPO − mean over tokens of e·H,  e_{i,t} = clamp(10·softmax over t of cov_{i,t}, 0, 5),
    cov = (A − Ā)(log π − mean log π) over the batch

e has no gradient, as the formula has it (the published code does not detach it). Its clip of 1.0 is no bound below.
Left out: the hard prompts and the first stage against lazy thinking, which are data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, LOGP, TOKEN, Column, boolean, floating
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.gates import covariance, settled
from temper.parts.kl import towards
from temper.parts.logprobs import BEHAVIOUR, OLD, OLD_ENTROPY, Read
from temper.parts.losses import Clip, EntropyBonus, Weighted
from temper.parts.sft import NLL
from temper.parts.walks import by_turn

SLUG = "light-if"
TITLE = "Light-IF"
PAPER = "arXiv 2508.03178"
FAMILY = "objectives"
HOOKS = ("gate", "loss")
RECIPE = "light-if"

HARD = Column("hard_and_sure", TOKEN, boolean, "among the batch's tokens with the largest −log π − c·H")
BONUS = Column("entropy_weight", TOKEN, floating, "of the token's entropy in the loss")


@dataclass(frozen=True)
class HardAndSure:
    """Marks ⌈share·N⌉ tokens of the batch."""

    share: float = 0.2
    c: float = 1.0
    reads = (OLD, OLD_ENTROPY)
    writes = (HARD,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        score = settled(-b[OLD] - self.c * b[OLD_ENTROPY])
        marked = torch.zeros(len(score), dtype=torch.bool)
        marked[score.argsort(descending=True, stable=True)[: -int(-self.share * len(score) // 1)]] = True
        return b.put(HARD, marked)


@dataclass(frozen=True)
class EntropyWeights:
    """BONUS = clamp(strength·softmax over the answer's tokens of cov, 0, most); without credit none."""

    strength: float = 10.0
    most: float = 5.0
    old: Column = BEHAVIOUR
    writes = (BONUS,)
    wanted = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (ADVANTAGE, self.old)

    async def __call__(self, b: Batch) -> Batch:
        cov = covariance(b, self.old)
        e = torch.zeros_like(cov)
        for at in by_turn(b):
            if not bool(cov[at].isnan().any()):
                e[at] = (self.strength * cov[at].softmax(0)).clamp(0, self.most)
        return b.put(BONUS, e)


def entropy_sft(policy: Any, *, share: float = 0.2, c: float = 1.0) -> Method:
    """Imitation of the tokens that are hard and of which the model is sure."""
    return Method(
        on_batch=[Read(policy, {OLD: LOGP, OLD_ENTROPY: ENTROPY}), HardAndSure(share, c)],
        terms=[Term("imitation", NLL(), per=token_mean, where=HARD)],
    )


def light_if(
    policy: Any, *, reference: Any = None, beta: float = 1e-3, strength: float = 10.0, most: float = 5.0,
    clip: float = 1.0, dual: float = 10.0, minibatches: int = 1,
) -> Method:  # fmt: skip
    """TEA-RL. strength, most: see `EntropyWeights`; beta: weight of the KL to `reference`."""
    stages, terms = towards(reference, beta)
    bonus = Term("entropy", Weighted(EntropyBonus(), (BONUS,)), per=token_mean)
    return Method(
        on_group=[Advantage()],
        on_batch=[EntropyWeights(strength, most), *stages],
        terms=[Term("policy", Clip(clip, clip, dual), per=token_mean), bonus, *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
