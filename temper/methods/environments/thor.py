"""THOR

Paper: Chang et al., "THOR: Tool-Integrated Hierarchical Optimization via RL for Mathematical Reasoning", 2025,
arXiv 2509.13761.
Hook: rollout (from before a failed call a side group of new calls is sampled), reward (there: does the code run?), gate
(untidy episodes are left out), loss (clip-higher with dual clip, and the NLL of tokens with A > 0).
Claim: state of the art at its scale; the step level raises code pass rate and accuracy over episodes alone.
Left out: TIRGen, its synthesis of demonstrations. At most one side group comes of a prompt (the code draws as many as
prompts from the whole batch), it starts before the first failed call (there an episode ends with it), and its prefix
is cut by ids (there decoded, cut and encoded again). Backing off in inference: `ToolUse(retries=…, back=…)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import AUTHOR, GROUP, GROUP_KEY, INFO, TOKEN, TRAJECTORY, Column
from temper.envs.tools import ToolUse
from temper.episode import ENV
from temper.method import Method
from temper.methods.environments.simpletir import has_box
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip
from temper.parts.selection import KEPT, POSITIVE, EnoughLeft, PositiveAdvantage, RewardsDiffer, Selection
from temper.parts.sft import NLL
from temper.parts.signals import RewardVaries
from temper.parts.steps import StepGroup, first_failure

SLUG = "thor"
TITLE = "THOR"
PAPER = "arXiv 2509.13761"
FAMILY = "environments"
HOOKS = ("rollout", "reward", "gate", "loss")
RECIPE = "thor"


@dataclass(frozen=True)
class Tidy(Selection):
    """Of episodes those whose calls all ran, of more than `shortest` tokens, with a box in the last `tail` tokens.

    Of a step's group everything that has a reward. tail 0: no box is asked for.
    """

    policy: Any = None
    shortest: int = 150
    tail: int = 100

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, INFO, AUTHOR, GROUP_KEY)

    def keeps(self, b: Batch, r: Tensor) -> Tensor:
        aside = b.spread(torch.tensor([float(key != "") for key in b[GROUP_KEY]]), GROUP, TRAJECTORY) > 0
        long = b.count(TOKEN, TRAJECTORY) > self.shortest
        ran = torch.tensor([first_failure(info or {}) is None for info in b[INFO]])
        ends = torch.tensor([not self.tail or self._ends_with_box(b, j) for j in range(len(r))])
        return aside | (ran & long & ends)

    def _ends_with_box(self, b: Batch, trajectory: int) -> bool:
        last = [u for u in b.turns_of(trajectory) if b[AUTHOR][u] != ENV][-1:]
        return any(has_box(self.policy.tokenizer.decode(b.turn_ids(u)[-self.tail :])) for u in last)


def thor(
    policy: Any,
    *,
    env: ToolUse | None = None,
    attempts: int = 16,
    back: int = 100,
    sampling: SamplingParams | None = None,
    seed: int = 0,
    shortest: int = 150,
    tail: int = 100,
    share: float = 0.5,
    alpha: float = 0.01,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual: float = 3.0,
) -> Method:
    """env: of the step level (None: episodes only), with attempts, back, sampling and seed as in `StepGroup`; shortest,
    tail: see `Tidy`; share: of a group that must be left; alpha: weight of the NLL."""
    step = [] if env is None else [StepGroup(policy, env, attempts, back, sampling or SamplingParams(), seed)]
    chosen = [
        Tidy(policy=policy, shortest=shortest, tail=tail), EnoughLeft(KEPT, share=share), RewardsDiffer(KEPT)
    ]  # fmt: skip
    positive = [Term("positive", NLL(), coef=alpha, per=token_mean, where=POSITIVE)] if alpha else []
    return Method(
        on_group=[*step, *chosen, Advantage(reward=KEPT), *([PositiveAdvantage()] if alpha else [])],
        terms=[Term("policy", Clip(clip_low, clip_high, dual), per=token_mean), *positive],
        signal=RewardVaries(KEPT),
    )
