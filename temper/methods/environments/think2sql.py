"""Think2SQL

Paper: Papicchio et al., "Think2SQL: Reinforce LLM Reasoning Capabilities for Text2SQL", 2025, arXiv 2504.15077; code
spapicchio/Think2SQL.
Hook: reward (queries are run; `temper.rewards.sql` has its variants), reward shaping (length), advantage, gate, loss.
Claim: a 7B model is on par with 100B and more on BIRD; fine-tuning on reasoning helps small models, reasoning without
it does not.
Left out: repetition penalty 1.1 of its sampler; rewards for the tables and columns that the reasoning names.
Reconstructed: QATCH's score is the mean of cell precision, cell recall and tuple cardinality.
Deviations: with equal scores the released advantage is 0/(σ_batch + 1e-4), as here. Time limits follow the reference's
own time as it is measured here, unless the row says it. A query that runs into its limit scores 0, a reference that
fails drops the attempt (there: 0). Truncated answers are left out of the loss as the paper's script does; the
repository's default configuration keeps them. Top-k and top-p: our log-probs are those of the truncated distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import AUTHOR, GROUP, REWARD, TRAJECTORY, TURN, TURN_TEXT, Column
from temper.episode import ENV
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, BatchStd
from temper.parts.gates import NOT_TRUNCATED, NotTruncated
from temper.parts.losses import GSPO
from temper.parts.shaping import SHAPED
from temper.stage import Stage

SLUG = "think2sql"
TITLE = "Think2SQL"
PAPER = "arXiv 2504.15077"
FAMILY = "environments"
HOOKS = ("reward", "advantage", "gate", "loss")
RECIPE = "think2sql"


@dataclass(frozen=True)
class LengthTerm:
    """shaped = max(0, r − min(most, strength·z)) for r > 0 and z > 0, z = (len − mean)/max(std, floor·mean).

    Mean and std (unbiased) are over the group's trajectories with r > `bar`, of which there must be two. len counts
    characters that were sampled. Shorter answers gain nothing.
    """

    strength: float = 0.1
    most: float = 0.9
    bar: float = 0.5
    floor: float = 0.2
    reward: Column = REWARD
    into: Column = SHAPED

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, AUTHOR, TURN_TEXT)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (self.into,)

    async def __call__(self, b: Batch) -> Batch:
        r = b[self.reward]
        own = [0 if who == ENV else len(text) for who, text in zip(b[AUTHOR], b[TURN_TEXT])]
        length = b.sum(torch.tensor(own, dtype=r.dtype), TURN, TRAJECTORY)
        right = torch.where(r > self.bar, length, torch.full_like(r, torch.nan))
        count = b.spread(b.sum((r > self.bar).to(r.dtype), TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        mean = b.spread(b.mean(right, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        spread = b.spread(b.sum((right - mean).square(), TRAJECTORY, GROUP), GROUP, TRAJECTORY) / (count - 1)
        z = (length - mean) / torch.maximum(spread.sqrt(), self.floor * mean)
        cost = (self.strength * z).clamp(0, self.most)
        return b.put(self.into, torch.where((count > 1) & (r > 0), (r - cost).clamp(min=0), r))


def think2sql(
    policy: Any,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    length: float = 0.0,
    filter_truncated: bool = True,
    minibatches: int = 1,
) -> Method:
    """length: `strength` of the length term (0: none; the paper's variant 0.1)."""
    shaping: list[Stage] = [LengthTerm(length)] if length else []
    gates: list[Stage] = [NotTruncated()] if filter_truncated else []
    where = NOT_TRUNCATED if filter_truncated else None
    return Method(
        on_group=[*shaping, *gates],
        on_batch=[Advantage(scale=BatchStd(1e-4), reward=SHAPED if length else REWARD)],
        terms=[Term("policy", GSPO(clip_low, clip_high), per=token_mean, where=where)],
        minibatches=minibatches,
    )
