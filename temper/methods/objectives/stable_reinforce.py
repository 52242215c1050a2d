"""StableReinforce

Paper: Zhang et al., "R1-Reward: Training Multimodal Reward Model Through Stable Reinforcement Learning", 2025,
arXiv 2505.02835; code yfzhang114/r1_reward.
Hook: loss (the log-ratio is clamped before the exponential), advantage (outliers are zeroed), reward (consistency).
Claim: 8.4 % above the best before on VL-RewardBench, 14.3 % on Multimodal RewardBench; no NaN or loss spikes where PPO
and REINFORCE++ diverge.

    ρ = exp(clamp(ℓ, −log δ, log δ)), δ = 1000, then PPO's clip: beyond the clamp there is no gradient and no inf·0
    Â = z-score over every token of the batch, 0 where |Â| > 3; its statistics are not computed again
    r = ½·format + correct·(1 + ½·consistency), consistency ∈ {1, 0, −1}: does the reasoning support the answer?

One attempt a task, return-to-go of −β·k1 and the reward, as in REINFORCE++. Wrong answers get nothing for agreeing with
wrong reasoning.
Left out: images, the supervised start, the order of the data. The judge of consistency is a function: on the laptop the
last thing that was thought against the answer; give a model's verdict instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, CORE, LOGP, REWARD, Column
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import ReturnToGo, Whiten
from temper.parts.kl import TOKEN_REWARD, KLReward
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip, Values
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED
from temper.rewards.checkers import final_part, normal
from temper.stage import Stage

SLUG = "stable-reinforce"
TITLE = "StableReinforce"
PAPER = "arXiv 2505.02835"
FAMILY = "objectives"
HOOKS = ("reward", "advantage", "loss")
RECIPE = "stable-reinforce"

Judge = Callable[[str], int]


@dataclass(frozen=True)
class PreClip(Clip):
    """PPO's clip of exp(clamp(ℓ, ±log bound))."""

    bound: float = 1e3

    def __call__(self, b: Batch) -> Values:
        limit = math.log(self.bound)
        return self.clipped((b[LOGP] - b[self.old]).clamp(-limit, limit).exp(), b[ADVANTAGE])


@dataclass(frozen=True)
class FilterOutliers:
    """A ← 0 where |A| > bound or A is infinite; absent ones stay absent."""

    bound: float = 3.0
    reads = (ADVANTAGE,)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(ADVANTAGE, torch.where(b[ADVANTAGE].abs() > self.bound, 0.0, b[ADVANTAGE]))


def thought_agrees(completion: str) -> int:
    """1 where the thinking ends in the answer, −1 where it ends otherwise, 0 where nothing was thought."""
    thinking, tag, _ = completion.rpartition("</think>")
    thought = normal(thinking.removeprefix("<think>")).replace("=", " ").split()
    return 0 if not tag or not thought else 1 if thought[-1] == normal(final_part(completion)) else -1


def well_formed(completion: str) -> float:
    """1 for <think>…</think> and an answer behind it."""
    return float(
        completion.startswith("<think>") and completion.count("</think>") == 1 and bool(final_part(completion))
    )


@dataclass(frozen=True)
class Consistency:
    """shaped = ½·format + r·(1 + ½·consistency)."""

    judge: Judge = thought_agrees
    form: Callable[[str], float] = well_formed
    reads = (REWARD,)
    uses: tuple[Column, ...] = CORE
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        said = [row.completion for row in rows_of(b)]
        form, agrees = (torch.tensor([float(f(text)) for text in said]) for f in (self.form, self.judge))
        return b.put(SHAPED, 0.5 * form + b[REWARD] * (1 + 0.5 * agrees))


def stable_reinforce(
    policy: Any,
    *,
    reference: Any = None,
    beta: float = 1e-3,
    clip: float = 0.2,
    bound: float = 1e3,
    outlier: float = 3.0,
    judge: Judge | None = thought_agrees,
    minibatches: int = 1,
) -> Method:
    """bound: of the ratio before the clip; outlier: of the normalised advantage; judge None: the reward as it is."""
    shaped: list[Stage] = [] if judge is None else [Consistency(judge)]
    penalty: list[Stage] = [] if reference is None else [reference_logp(reference), KLReward(beta)]
    credit = ReturnToGo(
        reward=REWARD if judge is None else SHAPED, token_reward=None if reference is None else TOKEN_REWARD
    )
    return Method(
        on_group=shaped,
        on_batch=[*penalty, credit, Whiten(), FilterOutliers(outlier)],
        terms=[Term("policy", PreClip(clip, clip, bound=bound), per=seq_mean_token_mean)],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
