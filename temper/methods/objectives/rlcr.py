"""RLCR

Paper: Damani et al., "Beyond Binary Rewards: Training LMs to Reason About Their Uncertainty", 2025, arXiv 2507.16806;
code damanimehul/RLCR.
Hook: reward (a proper score of the confidence that an answer states).
Claim: as accurate as with a binary reward, ECE 0.37 to 0.03 on HotPotQA, calibrated on other data too.

    reward = ½·format + ½·correct + ½·(1 − (correct − q)²), 0 where the format fails;  GRPO without σ, no KL

For a fixed answer that is right with probability p the expected reward is largest at q = p, and grows with p: the
score is bounded, so the best answer stays the best (with a logarithm, a surely wrong one with q = 0 can be better).
Correct is the same in both parts. σ would weigh easy and hard tasks differently: it is left out of the advantage.
Left out: the judge of free-form answers. `calibration` gives accuracy, Brier score, ECE (10 bins) and AUROC;
`weighted_majority` votes by confidence. A confidence that cannot be read is a format failure, never ½.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import CORE, REWARD
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage, unscaled
from temper.parts.calibration import calibration
from temper.parts.gates import NOT_TRUNCATED, NotTruncated
from temper.parts.losses import Clip
from temper.parts.rewards import rows_of
from temper.parts.shaping import SHAPED
from temper.stage import Stage

SLUG = "rlcr"
TITLE = "RLCR"
PAPER = "arXiv 2507.16806"
FAMILY = "objectives"
HOOKS = ("reward",)
RECIPE = "rlcr"

_STATED = re.compile(r"<confidence>\s*([0-9.]+)\s*%?\s*</confidence>\s*(?:<\|[^|]*\|>)?\s*\Z")


def stated(completion: str) -> float | None:
    """The confidence in [0, 1] that closes an answer; None where there is none."""
    found = _STATED.search(completion)
    try:
        q = float(found.group(1)) if found else -1.0
    except ValueError:
        return None
    return q if 0 <= q <= 1 else None


@dataclass
class ProperScore:
    """SHAPED from REWARD (correct, 0 to 1) and the confidence that each answer states (brier False: without it).

    lenient  without a readable confidence ½·correct is left, for a model that seldom states one
    """

    brier: bool = True
    lenient: bool = False
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD,)
    uses = CORE
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        said = [stated(row.completion) for row in rows_of(b)]
        q = torch.tensor([-1.0 if x is None else x for x in said])
        correct = b[REWARD]
        score = 0.5 + 0.5 * correct + (0.5 * (1 - (correct - q).square()) if self.brier else 0.0)
        known = [(c, x) for c, x in zip(correct.tolist(), said) if x is not None and c == c]
        self.metrics = {f"calibration/{k}": v for k, v in calibration(*zip(*known)).items()} if known else {}
        return b.put(SHAPED, torch.where(q < 0, 0.5 * correct if self.lenient else 0.0 * correct, score))


def rlcr(
    policy: Any, *, brier: bool = True, lenient: bool = False, filter_overlong: bool = True, clip: float = 0.2,
    minibatches: int = 1,
) -> Method:  # fmt: skip
    """brier, lenient: see `ProperScore`; filter_overlong: truncated answers are not trained on."""
    gates: list[Stage] = [NotTruncated()] if filter_overlong else []
    where = NOT_TRUNCATED if filter_overlong else None
    return Method(
        on_group=[ProperScore(brier, lenient), *gates, Advantage(scale=unscaled, reward=SHAPED)],
        terms=[Term("policy", Clip(clip, clip), per=seq_mean_token_mean, where=where)],
        minibatches=minibatches,
    )
