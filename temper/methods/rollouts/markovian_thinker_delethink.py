"""The Markovian Thinker (Delethink)

Paper: Aghajohari et al., "The Markovian Thinker", 2025, arXiv 2510.06557.
Hook: rollout (thinking in chunks that carry a few ids over, `envs.chunked`), reward (two optional shapes), loss (clip
0.2/0.26 with weights π_old/π_sampler up to 2; tokens averaged over their trace, then over traces).
Claim: an 8K context matches or beats 24K of ordinary RL, and goes on where that stops; attention costs 6 times less.
Left out: a KL penalty and a critic (the released code has none for chunks either); its cosine reward; minimum trace.
The released code drops no chunk either, and corrects row means by rows per trace; here a trajectory is the trace,
so the ordinary mean over trajectories is the paper's. Judged is the text of the whole trace; there, what the last chunk
saw of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import FINISH, REWARD, TRAJECTORY, TURN
from temper.envs.chunked import Chunked
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.gates import is_truncated
from temper.parts.logprobs import old_logp
from temper.parts.losses import Clip
from temper.parts.ratios import TruncatedIS, corrected
from temper.parts.shaping import SHAPED

SLUG = "markovian-thinker-delethink"
TITLE = "The Markovian Thinker (Delethink)"
PAPER = "arXiv 2510.06557"
FAMILY = "rollouts"
HOOKS = ("rollout", "reward", "loss")
RECIPE = "markovian-thinker-delethink"


@dataclass(frozen=True)
class TraceReward:
    """shaped = r + bonus · chunks, r the judge's; with `ternary` +1 (for 1) or −1, and 0 for a trace that was cut."""

    ternary: bool = False
    bonus: float = 0.0
    reads = (REWARD, FINISH)
    writes = (SHAPED,)

    async def __call__(self, b: Batch) -> Batch:
        r, cut = b[REWARD], is_truncated(b)
        if self.ternary:
            sign = torch.where(r >= 1, torch.ones_like(r), -torch.ones_like(r))
            r = torch.where(r.isnan(), r, torch.where(cut, torch.zeros_like(r), sign))
        return b.put(SHAPED, r + self.bonus * b.sum(b.structure.sampled.float(), TURN, TRAJECTORY))


def markovian_thinker_delethink(
    policy: Any,
    *,
    env: Chunked | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.26,
    cap: float = 2.0,
    ternary: bool = False,
    bonus: float = 0.0,
    minibatches: int = 2,
) -> Method:
    """env: how it thinks (the paper's: C = 8192, m = 4096, I = 5); cap: of the weights; bonus: of a chunk (or 0.02)."""
    return Method(
        on_group=[TraceReward(ternary, bonus), Advantage(reward=SHAPED)],
        on_batch=[old_logp(policy), TruncatedIS(cap)],
        terms=[Term("policy", corrected(Clip(clip_low, clip_high)), per=seq_mean_token_mean)],
        minibatches=minibatches,
        env=env or Chunked(),
    )
