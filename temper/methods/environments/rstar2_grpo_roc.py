"""GRPO-RoC (rStar2-Agent)

Paper: Shang et al., "rStar2-Agent: Agentic Reasoning Technical Report", 2025, arXiv 2508.20722.
Hook: rollout (2G attempts, of which G are trained on: Resample-on-Correct), loss (clip-higher).
Claim: a 14B model reaches 80.6 on AIME 2024 in 510 steps; resampling lowers the share of tool errors within correct
episodes, and shortens them.
Left out: successes drawn at random with a probability that falls with the penalty, and failures uniformly (the paper's
text); as in the code the successes of least penalty and the first failures are kept, which are a uniform draw since
attempts are alike. Errors are the calls' outcomes: the code looks for the word "error". Supervised fine-tuning and the
stages of growing length are runs of their own.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip
from temper.parts.selection import KEPT, ResampleOnCorrect
from temper.parts.signals import RewardVaries

SLUG = "rstar2-grpo-roc"
TITLE = "GRPO-RoC (rStar2-Agent)"
PAPER = "arXiv 2508.20722"
FAMILY = "environments"
HOOKS = ("rollout", "loss")
RECIPE = "rstar2-grpo-roc"


def rstar2_grpo_roc(
    policy: Any,
    *,
    keep: int = 16,
    least: int = 2,
    tags: tuple[str, str] = ("<answer>", "</answer>"),
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Method:
    """keep: G, of the 2G attempts of a run; least, tags: see `ResampleOnCorrect`."""
    return Method(
        on_group=[ResampleOnCorrect(keep=keep, least=least, tags=tags), Advantage(reward=KEPT)],
        terms=[Term("policy", Clip(clip_low, clip_high), per=token_mean)],
        signal=RewardVaries(KEPT),
    )
