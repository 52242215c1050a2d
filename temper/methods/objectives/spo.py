"""SPO

Paper: Guo et al., "Segment Policy Optimization: Effective Segment-Level Credit Assignment in RL for Large Language
Models", 2025, arXiv 2505.23564; project AIFrameResearch/SPO.
Hook: rollout (continuations from inside an answer, or a tree), advantage (of segments), replay (edges of trees).
Claim: 6 to 12 points above PPO and GRPO on GSM8K (short answers, chain); 7 to 11 points above GRPO on MATH500 with 2K
and 4K tokens (long answers, tree).

    chain  cuts before every 5th token with π < 0.9;  V(cut) = mean reward of 9 answers that go on from there
           A of a segment = V(its end) − V(its start);  of the last: r − V(its start);  before the first cut: 0
           whitened over the tokens with credit
    tree   6·6·6 branches, segments of 30 tokens, the last to the end;  V of a node = the mean over its children
           A of an edge = V(child) − V(parent), also over the siblings' deviation;  edges with A ≠ 0 are samples of
           their own: 32 of a tree in a step, the others in one of the next 8
    tokens with π ≥ 0.9 are masked and leave the denominator (token mean, PPO clip)

An attempt without a cut has A = 0, not r. Continuations must be the attempt's own policy's: `SegmentCredit` leaves out
those of other weights. Their tokens count as sampled: in short answers nine for every cut cost more than all attempts.
Left out: the schedule of segment lengths for long answers. Reconstructed: which edges wait (all that were
not drawn).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from temper.backends.base import SamplingParams
from temper.envs.levels import Levels
from temper.method import Method
from temper.objective import Term
from temper.parts.advantages import Whiten
from temper.parts.edges import EdgeAdvantage, EdgeReplay
from temper.parts.losses import Clip
from temper.parts.segments import MaskCertain, SegmentCredit
from temper.parts.signals import RewardVaries
from temper.stage import Stage

SLUG = "spo"
TITLE = "SPO"
PAPER = "arXiv 2505.23564"
FAMILY = "objectives"
HOOKS = ("rollout", "advantage", "replay")
RECIPE = "spo"


def spo(
    policy: Any, *, judges: Sequence[Stage] = (), form: Literal["chain", "tree"] = "chain", threshold: float = 0.9,
    every: int = 5, continuations: int = 9, from_prompt: bool = False, widths: tuple[int, ...] = (6, 6, 6),
    segment: int = 30, scale: bool = False, age: int = 8, most: int = 32, clip: float = 0.2,
    sampling: SamplingParams | None = None, seed: int = 0, minibatches: int = 1,
) -> Method:  # fmt: skip
    """threshold to from_prompt: of `SegmentCredit` (chain); widths, segment: of `Levels`; scale: of `EdgeAdvantage`;
    age, most: of `EdgeReplay` (tree); sampling: the run's."""
    masked = MaskCertain(threshold)
    terms = [Term("policy", Clip(clip, clip))]
    if form == "tree":
        return Method(
            on_group=[EdgeAdvantage(scale)],
            on_batch=[EdgeReplay(age, most, seed), masked],
            terms=terms,
            signal=RewardVaries(),
            minibatches=minibatches,
            env=Levels(widths, segment),
        )
    credit = SegmentCredit(
        policy, judges, threshold, every, continuations, from_prompt, sampling or SamplingParams(), seed
    )
    return Method(on_group=[credit], on_batch=[masked, Whiten()], terms=terms, minibatches=minibatches)
