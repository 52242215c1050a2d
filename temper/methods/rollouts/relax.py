"""Relax

Paper: "Relax: An Asynchronous Reinforcement Learning Engine for Omni-Modal Post-Training at Scale", arXiv 2604.11554.
Hook: loss (the ratio to the log-probs that were recorded when a token was sampled, under whichever weights; for rows
more than one update old, truncated importance weights between these and the learner's). The schedule is the run's:
`Run.ahead` is the staleness, `Run.sync` how new weights reach samplers, `temper.bus` the bus, `temper.streaming`
training that begins before a step is whole.
Claim: against colocated training 1.12 times as fast at staleness 0 (streamed) and 1.76 times above it, at the same
final reward (16 GPUs, 4 B).
Reconstructed: the sheet does not give the loss of stale rows; `cap` is TIS's default.
Left out: services that restart by themselves and elastic engines (`temper.fleet`, `temper.backends.ray`), over-sampled
rollouts whose unfinished rows are carried to the next step (`sync="resume"` lets every row go on instead: a step's
rows stay that step's), routing replay, other modalities.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.methods.objectives.grpo import grpo
from temper.methods.objectives.tis import tis

SLUG = "relax"
TITLE = "Relax"
PAPER = "arXiv 2604.11554"
FAMILY = "rollouts"
HOOKS = ("rollout", "loss")
RECIPE = "relax"


def relax(policy: Any, *, staleness: int = 1, cap: float = 2.0, clip: float = 0.2) -> Method:
    """What the loss needs at a staleness; cap: of the importance weights from 2 on; clip: of the probability ratio."""
    return grpo(policy, beta=0.0, clip=clip) if staleness < 2 else tis(policy, cap=cap, clip=clip)
