"""QwenLong-L1

Paper: Wan et al., "QwenLong-L1: Towards Long-Context Large Reasoning Models with Reinforcement Learning", 2025,
arXiv 2505.17667; code Tongyi-Zhiwen/QwenLong-L1.
Hook: curriculum (prompts grow in phases, hard ones come again), reward (a rule or a judge), on DAPO.
Claim: a 32B model on a par with the best closed ones of its time on seven sets of questions about long documents;
phases are better than none, retrospective sampling than none, and the two rewards together than either.

    r = max(rule, judge); where the judge says nothing the rule counts alone
    later phases: a share of hard tasks of the earlier ones, in proportion to 1/mean reward (see `parts.domains.Phased`)

Dynamic sampling looks at the combined reward. Prompts beyond a phase's cap are not asked, never cut.
Left out: the supervised start. Caps are in characters, since no tokenizer is loaded when a run is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import REWARD, Column
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.curricula import Shuffled
from temper.parts.domains import Phased
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED, Overlong
from temper.parts.signals import RewardVaries
from temper.stage import Stage

SLUG = "qwenlong-l1"
TITLE = "QwenLong-L1"
PAPER = "arXiv 2505.17667"
FAMILY = "objectives"
HOOKS = ("curriculum", "reward", "loss")
RECIPE = "qwenlong-l1"

EITHER = REWARD.of("either")


@dataclass(frozen=True)
class Either:
    """EITHER = the largest of the parts that have a value; NaN where none has."""

    parts: tuple[str, ...]
    writes = (EITHER,)

    @property
    def reads(self) -> tuple[Column, ...]:
        return tuple(REWARD.of(name) for name in self.parts)

    async def __call__(self, b: Batch) -> Batch:
        values = torch.stack([b[column] for column in self.reads])
        best = values.nan_to_num(nan=-torch.inf).amax(0)
        return b.put(EITHER, torch.where(values.isnan().all(0), torch.nan, best))


def qwenlong_l1(
    policy: Any, *, parts: tuple[str, ...] = (), caps: tuple[int, ...] = (), requests: int = 1000,
    retrospective: float = 0.25, clip_low: float = 0.2, clip_high: float = 0.2, max_tokens: int = 10_000,
    buffer: int = 1000, minibatches: int = 4,
) -> Method:  # fmt: skip
    """parts: names of the rewards of which the largest counts (none: the sum, as it is); caps, requests, retrospective:
    see `Phased` (no caps: all prompts at once); max_tokens, buffer: see `Overlong`."""
    reward = EITHER if parts else REWARD
    either: list[Stage] = [Either(parts)] if parts else []

    def grow(tasks: Sequence[Any], attempts: int, seed: int) -> Any:
        if not caps:
            return Shuffled(tasks, attempts, seed)
        return Phased(tasks, caps, requests, attempts, retrospective, seed)

    return Method(
        on_group=[
            *either,
            Overlong(max_tokens, min(buffer, max_tokens), 1.0, reward, SHAPED),
            Advantage(reward=SHAPED),
        ],
        terms=[Term("policy", Clip(clip_low, clip_high), per=token_mean)],
        signal=RewardVaries(reward),
        minibatches=minibatches,
        curriculum=grow,
    )
