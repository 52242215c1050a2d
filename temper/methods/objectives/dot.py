"""DOT (Dynamic Outlier Truncation)

Paper: "Anti-Length Shift: Dynamic Outlier Truncation for Training Efficient Reasoning Models", 2026, arXiv 2601.03969;
code read: a public project on verl 0.6.1.
Hook: rollout (the longest of right answers are cut and judged again), loss (KL-Cov).
Claim: a 1.5B model on AIME 2024 from 30.0 with 15.5k tokens to 52.2 with 5.2k; less than 0.5 % of answers are touched.

    in groups in which every answer is right:  T = ⌊mean L + α·std L⌋, α = 3;  answers with L − T ≥ margin are cut at T
    and judged again: what was cut is mostly wrong then, so the group has signal, against its longest answers

The order matters: cut, judge again, advantages, and only then dynamic sampling, which would have thrown these groups
away. With G answers no z-score exceeds (G − 1)/√G: with α = 3 nothing can be cut for G ≤ 10.
Left out: predictive dynamic sampling (one oversized round in the place of refills); dual clip is KL-Cov's absence of a
clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, REWARD, TOKEN, TRAJECTORY
from temper.episode import ENV, Episode
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.demonstrations import judged
from temper.parts.gates import KLCovSelect
from temper.parts.losses import KLCov
from temper.parts.reroll import shortened
from temper.parts.signals import RewardVaries
from temper.stage import Stage

SLUG = "dot"
TITLE = "DOT (Dynamic Outlier Truncation)"
PAPER = "arXiv 2601.03969"
FAMILY = "objectives"
HOOKS = ("rollout", "loss")
RECIPE = "dot"


@dataclass
class CutOutliers:
    """Cuts and judges again. Columns that other stages wrote before it are not kept.

    margin  tokens, or below 1 a share of the answer's length, at least 16 tokens
    right   reward from which an answer is right
    """

    policy: Any
    judges: Sequence[Stage] = ()
    alpha: float = 3.0
    margin: float = 32
    right: float = 1.0
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD,)
    writes = ()
    uses = (*CORE, BEHAVIOUR)

    async def __call__(self, b: Batch) -> Batch:
        length = b.count(TOKEN, TRAJECTORY)
        limit = self.limit(b, length)
        cut = [] if limit is None else (length - limit >= self.needed(length)).tolist()
        self.metrics = {"cut/share": sum(cut) / max(len(length), 1)}
        if limit is None or not any(cut):
            return b
        plays = [self._cut(e, limit) if c else e for e, c in zip(to_episodes(b), cut)]
        return await judged(Batch.of(plays), self.judges)

    def limit(self, b: Batch, length: torch.Tensor) -> int | None:
        """T of a group in which every answer is right, else None."""
        if len(length) < 2 or b.size(TRAJECTORY) != len(to_episodes(b)) or not bool((b[REWARD] >= self.right).all()):
            return None
        return int(length.mean() + self.alpha * length.std())

    def needed(self, length: torch.Tensor) -> torch.Tensor:
        """[trajectories] by how many tokens an answer must exceed T."""
        return torch.full_like(length, self.margin) if self.margin >= 1 else (self.margin * length).clamp(min=16)

    def _cut(self, episode: Episode, limit: int) -> Episode:
        """The play with its last sampled turn ended where the attempt has `limit` sampled tokens."""
        last = max(n for n, t in enumerate(episode.turns) if t.author != ENV)
        before = sum(len(t.ids) for n, t in enumerate(episode.turns) if t.author != ENV and n < last)
        turns = list(episode.turns)
        turns[last] = shortened(turns[last], max(limit - before, 1), self.policy.tokenizer)
        return replace(episode, turns=tuple(turns))


def dot(
    policy: Any, *, judges: Sequence[Stage] = (), alpha: float = 3.0, margin: float = 32, share: float = 2e-3,
    kappa: float = 1.0, minibatches: int = 4,
) -> Method:  # fmt: skip
    """alpha, margin: see `CutOutliers`; share, kappa: of KL-Cov."""
    return Method(
        on_group=[CutOutliers(policy, judges, alpha, margin), Advantage()],
        on_batch=[KLCovSelect(share)],
        terms=[Term("policy", KLCov(kappa), per=seq_mean_token_mean)],
        signal=RewardVaries(),
        minibatches=minibatches,
    )
