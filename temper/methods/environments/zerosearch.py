"""ZeroSearch

Paper: Sun et al., "ZeroSearch: Incentivize the Search Capability of LLMs without Searching", 2025, arXiv 2505.04588;
code Alibaba-NLP/ZeroSearch.
Hook: env (the search engine is a simulator: another policy, or rules), curriculum (documents get noisier as training
goes on), reward (F1 of the last answer, no format term: `AnswerReward()`).
Claim: a 7B simulator trains as well as a real engine, a 14B one better.
Left out: the simulator's own fine-tuning; the warm-up over 95 % of the steps (sic).
Deviations: the noise of a search is drawn for that search and for its own question. The released batch search pairs the
k-th search of a batch with the batch's k-th question, which is another one as soon as one episode of them has ended.
The prompt's texts are our own. P(noisy) rises with the version of the weights that search, so a resumed run goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from temper.envs.simulated import SimulatedSearch, Simulator
from temper.errors import UserError
from temper.method import Method
from temper.methods.objectives.grpo import grpo
from temper.objective import Coefficient

SLUG = "zerosearch"
TITLE = "ZeroSearch"
PAPER = "arXiv 2505.04588"
FAMILY = "environments"
HOOKS = ("env", "curriculum", "reward")
RECIPE = "zerosearch"
PROMPT = (
    "Answer the question. Think between <think> and </think> whenever you learn something new. If you lack knowledge, "
    "search with <search> query </search>; what is found stands between <information> and </information>. Search as "
    "often as you want. Then give the answer, and nothing else, between <answer> and </answer>. Question: {question}"
)
CORRECTION = (
    "My previous action is invalid. To search, I put the query between <search> and </search>. To give the final "
    "answer, I put it between <answer> and </answer>. Let me try again."
)


@dataclass(frozen=True)
class Rising:
    """P(noisy) at step i of m: start + (end − start)·(b^{i/m} − 1)/(b − 1); `end` from step m on (eq. 1)."""

    steps: int
    start: float = 0.0
    end: float = 0.5
    base: float = 4.0

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise UserError(f"the noise must be between 0 and 1, got {self.start} and {self.end}")
        if self.base <= 0 or self.base == 1:
            raise UserError(f"the base of the rising noise must be above 0 and not 1, got {self.base}")

    def __call__(self, step: int) -> float:
        done = min(step / max(self.steps, 1), 1.0)
        return self.start + (self.end - self.start) * (math.pow(self.base, done) - 1) / (self.base - 1)


def zerosearch(
    policy: Any,
    *,
    steps: int,
    simulator: Simulator | None = None,
    start: float = 0.0,
    end: float = 0.5,
    base: float = 4.0,
    turns: int = 5,
    top: int = 5,
    explain: bool = True,
    reference: Any = None,
    beta: Coefficient = 1e-3,
    clip: float = 0.2,
) -> Method:
    """steps: over which the noise rises; simulator: see `SimulatedSearch`; beta: weight of the KL to `reference`.

    explain: the prompt, and what an action that is none gets back, say how to search and answer."""
    texts: dict[str, Any] = {"prompt": PROMPT, "correction": CORRECTION} if explain else {}
    env = SimulatedSearch(simulator, Rising(steps, start, end, base), turns, top, **texts)
    return replace(grpo(policy, reference=reference, beta=beta, clip=clip), env=env)
