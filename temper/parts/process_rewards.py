"""Rewards of steps, from a model that is trained on outcomes alone while the policy trains.

A step is a turn where a trajectory has several, and a piece of the answer where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from temper.backends.base import AdamW
from temper.carrier import Batch, Grouping
from temper.columns import (
    ADVANTAGE,
    ALLOWED,
    GROUP,
    LOGP,
    REWARD,
    SUPPORT,
    TEMPERATURE,
    TOKEN,
    TRAJECTORY,
    TURN,
    Column,
    boolean,
    floating,
)
from temper.objective import Term
from temper.parts.gates import settled
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.walks import Walk

By = Literal["turn", "line", "word"]
MARKS: dict[By, tuple[str, ...]] = {"turn": (), "line": ("\n",), "word": (" ", "\n", "\t")}

BEGINS = Column("step_begins", TOKEN, boolean, "the first token of a step")
STEPS = Column("steps", TRAJECTORY, floating, "how many steps it has")
OUTCOME_RANK = Column("outcome_rank", TRAJECTORY, floating, "the reward, rounded for comparing; NaN = in no pair")
PROCESS = Column("process_reward", TOKEN, floating, "of the token's step; NaN = nobody's tokens")
JUDGE = LOGP.of("process model")
REPORTED = {"process/loss": "loss/process", "process/accuracy": "process/accuracy", "process/grad_norm": "grad_norm"}


def model_for(policy: Any, lr: float, clip: float = 10.0) -> Any:
    """A process reward model that starts from the policy's weights."""
    return replace(policy, name="process", drafts=None, engine="local", optimizer=AdamW(lr=lr, clip=clip))


# steps ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """BEGINS: where a turn begins; in the turn of a trajectory with no other, also where a line or a word does.

    A mark belongs to the step that it ends. by "turn": no turn is cut.
    """

    policy: Any
    by: By = "line"
    reads = ()
    writes = (BEGINS,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        turn = b.structure.token_turn
        begins = torch.ones(len(turn), dtype=torch.bool)
        begins[1:] = turn[1:] != turn[:-1]
        if MARKS[self.by]:
            turns = b.spread(b.sum(b.structure.sampled.float(), TURN, TRAJECTORY), TRAJECTORY, TOKEN)
            begins |= self.cuts(b.token_ids) & (turns == 1)
        return b.put(BEGINS, begins)

    def cuts(self, ids: Tensor) -> Tensor:
        """[tokens] bool: a mark has just ended, or opens the token."""
        decode, marks = self.policy.tokenizer.decode, MARKS[self.by]
        text = {i: decode([i]) for i in set(ids.tolist())}
        found = [False] * min(1, len(ids))
        for before, now in pairwise(text[i] for i in ids.tolist()):
            opened = now.startswith(marks)
            found.append((opened and now.strip("".join(marks)) != "") or (before.endswith(marks) and not opened))
        return torch.tensor(found, dtype=torch.bool)


def of_step(b: Batch, x: Tensor) -> Tensor:
    """[tokens] sum of x [tokens] over the token's step; NaN where one of them is NaN."""
    number = b[BEGINS].cumsum(0)
    steps = Grouping(tuple(range(int(number[-1:].sum()) + 1)), number)
    unknown = steps.sum(x.isnan().to(x.dtype))
    return steps.spread(torch.where(unknown > 0, torch.nan, steps.sum(x)))


# the model ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairLoss:
    """Σ over a group's pairs (i did better than j) of −log σ(Q_i − Q_j), Q = β/steps · Σ_t (log π_φ − log π_old).

    Q is the mean over steps of the step's β-scaled sum. Unjudged trajectories are in no pair.
    """

    beta: float = 0.05
    level = GROUP
    reads = (LOGP, BEHAVIOUR, STEPS, OUTCOME_RANK)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        total = b.sum((b[LOGP] - b[BEHAVIOUR]).nan_to_num(nan=0.0), TOKEN, TRAJECTORY)
        q = self.beta * total / b[STEPS].clamp(min=1)
        better, worse = pairs(b)
        margin = q[better] - q[worse]
        group, zeros = b.structure.group[better], torch.zeros(b.size(GROUP), dtype=q.dtype)
        right = zeros.index_add(0, group, (margin > 0).to(q.dtype))
        count = zeros.index_add(0, group, torch.ones_like(margin)).clamp(min=1)
        return zeros.index_add(0, group, -logsigmoid(margin)), {"process/accuracy": right / count}


def pairs(b: Batch) -> tuple[Tensor, Tensor]:
    """(better, worse) [pairs] trajectories of one group whose rewards differ."""
    r, group = b[OUTCOME_RANK], b.structure.group
    better, worse = ((group[:, None] == group[None]) & (r[:, None] > r[None])).nonzero(as_tuple=True)
    return better, worse


def pair_mean(b: Batch, live: Tensor) -> Tensor:
    """Weights 1/(pairs in all) of the groups that have one."""
    better, _ = pairs(b)
    n = torch.bincount(b.structure.group[better], minlength=b.size(GROUP)).to(live.dtype) * live
    return live * (n > 0) / n.sum().clamp(min=1)


@dataclass
class ProcessRewards:
    """Trains the model on the batch's pairs, then writes PROCESS: R = β·Σ_{t ∈ step} (log π_φ − log π_old).

    log π_old is the sampler's, so that of the weights that wrote the step. R is divided by the largest |Σ_{k ≥ j} R_k|
    of the batch (by no less than 1e-3: rounding is no reward). Without a pair the model stays as it is.

    model  a trainable policy of its own; fresh: score with the model after its update, not as it was before
    """

    model: Any
    beta: float = 0.05
    fresh: bool = False
    normalise: bool = True
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD, BEHAVIOUR, BEGINS)
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = (STEPS, OUTCOME_RANK, PROCESS)

    async def __call__(self, b: Batch) -> Batch:
        b = b.put(STEPS, b.sum(b[BEGINS].float(), TOKEN, TRAJECTORY)).put(OUTCOME_RANK, self.ranks(b))
        before = None if self.fresh else self._read(b)
        self.metrics = {}
        if len(pairs(b)[0]):
            said = self.model.learner.update(b, [Term("process", PairLoss(self.beta), per=pair_mean)])
            self.metrics = {name: said[key] for name, key in REPORTED.items() if key in said}
        step = of_step(b, self.beta * ((self._read(b) if before is None else before) - b[BEHAVIOUR]))
        return b.put(PROCESS, step / self.scale(b, step) if self.normalise else step)

    def ranks(self, b: Batch) -> Tensor:
        """[trajectories] NaN too where a token has no log π_old: a demonstration is in no pair."""
        unknown = b.sum(b[BEHAVIOUR].isnan().float(), TOKEN, TRAJECTORY) > 0
        return torch.where(unknown, torch.nan, settled(b[REWARD]))

    def _read(self, b: Batch) -> Tensor:
        out: Tensor = self.model.learner.read(b, {JUDGE: LOGP})[JUDGE].to(b[BEHAVIOUR].dtype)
        return out

    def scale(self, b: Batch, step: Tensor) -> Tensor:
        walk = Walk.of(b)
        ahead = walk.discounted(torch.where(b[BEGINS], step.nan_to_num(nan=0.0), 0.0)[walk.token], 1.0)
        return ahead.abs().max().clamp(min=1e-3) if len(ahead) else torch.ones(())


@dataclass(frozen=True)
class StepAdvantage:
    """A ← A + α·(R − mean R of the group's other steps), R = PROCESS of the token's step.

    Every step of every judged trajectory of the group is compared with every other, once each. first: only with the
    first step of each trajectory, as the published code does. One step alone has nothing to be compared with: A + α·R.
    """

    alpha: float = 1.0
    first: bool = False
    reads = (ADVANTAGE, PROCESS, BEGINS)
    writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        r = torch.where(b[ADVANTAGE].isnan(), torch.nan, b[PROCESS])
        member = b[BEGINS]
        if self.first:
            walk = Walk.of(b)
            member = member & (torch.bincount(walk.token[walk.place == 0], minlength=len(r)) > 0)
        seen = torch.where(member, r, torch.nan)
        n = b.spread(b.sum((~seen.isnan()).to(r.dtype), TOKEN, GROUP), GROUP, TOKEN)
        mean = b.spread(b.mean(seen, TOKEN, GROUP), GROUP, TOKEN)
        step = torch.where(n > 1, n / (n - 1).clamp(min=1) * (r - mean), r)
        return b.put(ADVANTAGE, b[ADVANTAGE] + self.alpha * step)
