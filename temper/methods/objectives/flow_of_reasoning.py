"""Flow of Reasoning

Paper: Yu et al., "Flow of Reasoning: Training LLMs for Divergent Reasoning with Minimal Examples", 2024, arXiv
2406.05673; code Yu-Fangxu/FoR.
Hook: rollout (noisy plays, local search), replay (a memory of good plays of each task), loss (trajectory balance), an
own parameter (log Z).
Claim: from some 15 examples more different right solutions than SFT and PPO at comparable accuracy (BlocksWorld,
Game24, PrOntoQA).

    P_F(a|s) = softmax over the allowed actions;  log P_F = Σ_steps;  P_B = Π 1/parents;  R = 100·r + 1 + prior
    s_i = log P_F − β log R − log P_B
    VarGrad:  mean over a group's different plays of (s_i − s̄)²;  or with a learned number:  (log Z + s_i)²

At the optimum a game ends in state x with probability ∝ R(x)^β, whoever sampled the plays: so they may come from
anywhere. β rises from 1 to 2 over the first half, ε falls from 0.5. A group needs two different plays; neighbours that
local search finds are often equal, so equal plays count once. log Z is one number for all tasks, as in the code: right
where their sums of rewards agree; VarGrad needs none.
Left out: a world model (the games here know their states); solved examples to start from. Different from the code:
every play has its own backward term (there the last one's serves for all), ε does fall (there a factor is missing),
parents are those in the graph (there the actions allowed after the step), plays of the memory join the others (there:
are in their place), actions of several tokens are normalised token by token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from temper.carrier import Batch
from temper.columns import GROUP, LOGP, TOKEN, TRAJECTORY
from temper.envs.flow import Flow
from temper.method import Method
from temper.objective import Term, row_mean
from temper.parts.flows import DIFFERENT, TARGET, Explore, FlowTarget
from temper.parts.logprobs import reference_logp
from temper.parts.schedules import Linear

SLUG = "flow-of-reasoning"
TITLE = "Flow of Reasoning"
PAPER = "arXiv 2406.05673"
FAMILY = "objectives"
HOOKS = ("rollout", "replay", "loss")
RECIPE = "flow-of-reasoning"


@dataclass(frozen=True)
class VarGrad:
    """The variance of s = Σ log π − TARGET over the group's plays that have one."""

    level = GROUP
    reads = (LOGP, TARGET)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        known = (~b[TARGET].isnan()).to(b[LOGP].dtype)
        n = b.sum(known, TRAJECTORY, GROUP).clamp(min=1)
        s = known * (b.sum(b[LOGP], TOKEN, TRAJECTORY) - b[TARGET].nan_to_num(nan=0.0))
        mean = b.sum(s, TRAJECTORY, GROUP) / n
        gap = known * (s - mean[b.structure.group])
        return b.sum(gap.square(), TRAJECTORY, GROUP) / n, {"flow/log_z": -mean.detach()}


class LogZ(nn.Module):
    """A learned number: start + pace·θ, so that it moves `pace` times as fast as the optimiser's rate."""

    def __init__(self, start: float = 5.0, pace: float = 100.0) -> None:
        super().__init__()
        self.start, self.pace, self.theta = start, pace, nn.Parameter(torch.zeros(1))

    def build(self, width: int) -> None:
        """It has no width."""

    def forward(self) -> Tensor:
        return self.start + self.pace * self.theta


@dataclass(frozen=True)
class Balance:
    """(log Z + Σ log π − TARGET)² of every play."""

    log_z: LogZ = field(default_factory=LogZ)
    level = TRAJECTORY
    reads = (LOGP, TARGET)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.log_z,)

    def __call__(self, b: Batch) -> Tensor:
        z = self.log_z().to(b[LOGP].dtype)
        return (z + b.sum(b[LOGP], TOKEN, TRAJECTORY) - b[TARGET].nan_to_num(nan=0.0)).square()


def flow_of_reasoning(
    policy: Any, *, env: Flow | None = None, form: Literal["vargrad", "logz"] = "vargrad", half: int = 30,
    noisy: int = 4, search: int = 16, prior: float = 0.0, reference: Any = None, seed: int = 0, minibatches: int = 1,
) -> Method:  # fmt: skip
    """half: batches over which β and the exploration change; prior: weight of the `reference`'s surprise in R."""
    env = env or Flow()
    epsilon, replay = Linear(0.5, 0.01, half), Linear(0.45, 0.5, half)
    explore = Explore(policy, env, noisy, epsilon, search=search, replay=replay, seed=seed)
    seen = [reference_logp(reference)] if prior else []
    variance = Term("balance", VarGrad(), per=row_mean, where=DIFFERENT)
    return Method(
        on_batch=[explore, *seen, FlowTarget(Linear(1.0, 2.0, half), prior=prior)],
        terms=[variance if form == "vargrad" else Term("balance", Balance(), per=row_mean)],
        minibatches=minibatches,
        policies={"reference": reference} if prior else {},
        env=env,
    )
