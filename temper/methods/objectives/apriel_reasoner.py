"""Apriel-Reasoner

Paper: ServiceNow, "Apriel-Reasoner: RL Post-Training for General-Purpose and Efficient Reasoning", 2026 (no number is
known); code ServiceNow/PipelineRL.
Hook: curriculum (which domain is asked for next, from what has come back), reward (a length penalty that spares hard
tasks).
Claim: 30 to 50 % shorter reasoning than comparable models at equal or better accuracy, from a training budget of 16K
tokens.

    p_d ∝ w_d · clip(target_d/actual_d, 0.1, 10), actual_d the domain's share of finished rollouts, after the first 50
    penalty = −(L − (L_max − B))/B for L > L_max − B, else 0; · solve_rate^γ where right, · `failed` where wrong
    −1 in full for those that ran into the limit
    reward 1 right, −½ wrong, −1 without an answer or unfinished;  A = r − mean, ε = 0.02

Domains whose rollouts take longer finish less often than they are asked for; what counts is what has finished. The
solve rate is that of the group, before the penalty.
Left out: the five domains' data; the filter of rows that lag too far, which is the loop's (`ahead`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import CORE, GROUP, REWARD, TOKEN, TRAJECTORY
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, unscaled
from temper.parts.curricula import Shuffled
from temper.parts.domains import AdaptiveDomains
from temper.parts.gates import is_truncated
from temper.parts.losses import Clip
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED
from temper.rewards.checkers import final_part
from temper.tasks.task import Task

SLUG = "apriel-reasoner"
TITLE = "Apriel-Reasoner"
PAPER = "code ServiceNow/PipelineRL"
FAMILY = "objectives"
HOOKS = ("curriculum", "reward")
RECIPE = "apriel-reasoner"


@dataclass(frozen=True)
class SparingPenalty:
    """SHAPED = the verdict's value plus the length penalty."""

    limit: int = 16_384
    buffer: int = 4096
    gamma: float = 1.0
    failed: float = 1.0
    right: float = 1.0
    reads = (REWARD,)
    uses = CORE
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        r, length = b[REWARD], b.count(TOKEN, TRAJECTORY)
        solved, cut = r >= self.right, is_truncated(b)
        empty = cut | torch.tensor([not final_part(row.completion) for row in rows_of(b)])
        value = torch.where(solved, 1.0, torch.where(empty, -1.0, -0.5))
        rate = b.spread(b.mean(torch.where(r.isnan(), r, solved.float()), TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        penalty = ((length - (self.limit - self.buffer)) / self.buffer).clamp(0, 1)
        scale = torch.where(solved, rate**self.gamma, torch.tensor(self.failed))
        loss = torch.where(cut, 1.0, penalty * scale)
        return b.put(SHAPED, torch.where(r.isnan(), r, value - loss))


def apriel_reasoner(
    policy: Any, *, targets: Mapping[str, float] | None = None, limit: int = 16_384, buffer: int | None = None,
    gamma: float = 1.0, failed: float = 1.0, clip: float = 0.02, minibatches: int = 1,
) -> Method:  # fmt: skip
    """targets: shares of domains; limit (L_max), buffer (B; None: a quarter), gamma, failed: see `SparingPenalty`."""

    def mix(tasks: Sequence[Task], attempts: int, seed: int) -> Any:
        return Shuffled(tasks, attempts, seed) if targets is None else AdaptiveDomains(tasks, attempts, seed, targets)

    penalty = SparingPenalty(limit, max(1, limit // 4) if buffer is None else buffer, gamma, failed)
    return Method(
        on_group=[penalty, Advantage(scale=unscaled, reward=SHAPED)],
        terms=[Term("policy", Clip(clip, clip), per=token_mean)],
        minibatches=minibatches,
        curriculum=mix,
    )
