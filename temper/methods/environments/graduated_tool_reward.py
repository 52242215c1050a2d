"""Graduated rewards for tool orchestration

Paper: "Training LLMs for Multi-Step Tool Orchestration with Constrained Data Synthesis and Graduated Rewards", 2026,
arXiv 2603.24709; code: horizon-rl/ToolOrchestrationReward.
Hook: environment (a cache of API responses, `temper.tasks.orchestration`), reward, data synthesis.
Claim: about doubles turn accuracy on ComplexFuncBench; either part of the reward alone is clearly worse.
As its code, where that and the paper's words differ: true and false pass for numbers where only the type counts; texts
that spell numbers are the numbers in the cache's keys; one call may serve several steps of a name.
The paper's run: 16 episodes a task, 16 tasks a step, lr 1e-6, KL 1e-3, 20 turns, Qwen3-8B.
Left out: the reward of the final state (weight 0 in the paper's runs, and not written in its code); live API calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temper.carrier import Batch
from temper.columns import REWARD
from temper.envs.scenes import Scenes
from temper.errors import UserError
from temper.method import Method
from temper.objective import Per, Term, token_mean
from temper.parts.advantages import GROUP_STD, Advantage
from temper.parts.kl import towards
from temper.parts.losses import Clip
from temper.parts.rewards import Rewards
from temper.rewards.load import Reward
from temper.rewards.orchestration import Orchestrated

SLUG = "graduated-tool-reward"
TITLE = "Graduated rewards for tool orchestration"
PAPER = "arXiv 2603.24709"
FAMILY = "environments"
HOOKS = ("rollout", "reward")
RECIPE = "graduated-tool-reward"

ATOMIC, ORCHESTRATION = REWARD.of("atomic"), REWARD.of("orchestration")
GRADUATED = REWARD.of("graduated")


@dataclass(frozen=True)
class Graduated:
    """graduated = atomic · R_atomic + orchestration · R_orch + exact · (1 when every reference call was made in order).

    The weights of the paper are 0.5, 0.5 and 0. REWARD itself stays the last of the three: evaluations are about that.
    """

    atomic: float = 0.5
    orchestration: float = 0.5
    exact: float = 0.0
    reads = (REWARD, ATOMIC, ORCHESTRATION)
    writes = (GRADUATED,)
    wanted = True

    def __post_init__(self) -> None:
        if min(self.atomic, self.orchestration, self.exact) < 0 or not self.atomic + self.orchestration + self.exact:
            raise UserError("weights of the graduated reward must not be negative, and one of them must be positive")

    async def __call__(self, b: Batch) -> Batch:
        total = self.atomic * b[ATOMIC] + self.orchestration * b[ORCHESTRATION] + self.exact * b[REWARD]
        return b.put(GRADUATED, total)


def graduated_tool_reward(
    policy: Any, *, env: Scenes | None = None, atomic: float = 0.5, orchestration: float = 0.5, exact: float = 0.0,
    unread: bool = False, reference: Any = None, beta: float = 1e-3, clip: float = 0.2, per: Per = token_mean,
) -> Method:  # fmt: skip
    """env: the cached APIs; atomic, orchestration, exact: of `Graduated`; unread: of `Orchestrated`; else GRPO."""
    judge = Reward(Orchestrated(unread), name="orchestrated")
    stages, terms = towards(reference, beta, per=per)
    return Method(
        on_group=[
            Rewards([judge], extras=("atomic", "orchestration")),
            Graduated(atomic, orchestration, exact),
            Advantage(reward=GRADUATED, scale=GROUP_STD),
        ],
        on_batch=stages,
        terms=[Term("policy", Clip(clip, clip), per=per), *terms],
        policies={} if reference is None else {"reference": reference},
        env=env,
    )
