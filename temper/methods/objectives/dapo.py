"""DAPO

Paper: Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, arXiv 2503.14476.
Hook: loss (clip-higher, token mean), rollout (dynamic sampling), reward (soft overlong punishment), gate (overlong
filtering).
Claim: 50 points on AIME 2024 from Qwen2.5-32B, above R1-Zero-Qwen's 47 in half the steps.
Left out: nothing. Dynamic sampling looks at the judge's reward, before the overlong punishment. The paper makes 16
mini-batches of 512 prompts.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.gates import NOT_TRUNCATED, NotTruncated
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED, Overlong
from temper.parts.signals import RewardVaries
from temper.stage import Stage

SLUG = "dapo"
TITLE = "DAPO"
PAPER = "arXiv 2503.14476"
FAMILY = "objectives"
HOOKS = ("rollout", "reward", "advantage", "gate", "loss")
RECIPE = "dapo"


def dapo(
    policy: Any,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    max_tokens: int = 20480,
    buffer: int | None = None,
    penalty: float = 1.0,
    filter_overlong: bool = False,
    minibatches: int = 1,
) -> Method:
    """max_tokens, buffer, penalty: see `Overlong` (buffer None: a fifth of max_tokens, as in the paper);
    filter_overlong: truncated answers are not trained on."""
    gates: list[Stage] = [NotTruncated()] if filter_overlong else []
    return Method(
        on_group=[
            Overlong(max_tokens, max(1, max_tokens // 5) if buffer is None else buffer, penalty),
            Advantage(reward=SHAPED),
            *gates,
        ],
        terms=[
            Term(
                "policy",
                Clip(clip_low, clip_high),
                per=token_mean,
                where=NOT_TRUNCATED if filter_overlong else None,
            )
        ],
        signal=RewardVaries(),
        minibatches=minibatches,
    )
