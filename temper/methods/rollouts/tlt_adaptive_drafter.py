"""TLT's adaptive drafter

Paper: Hu et al., "Taming the Long-Tail: Efficient Reasoning RL Training with Adaptive Drafter", 2025, arXiv 2511.16665.
Hook: rollout (speculative decoding), state (a second small network that is trained between steps).
Claim: more than 1.7 times the speed of a synchronous verl, end to end, at the same rewards: the long tail of rollouts
is decoded from drafts, and the drafter keeps up with the target because it is trained on what rollouts leave behind.
Left out: training on idle workers beside a rollout (here: between steps), a warm-up on other text, trees of guesses,
the bandit over strategies and its CUDA graphs (the number of guesses follows from success rates:
`temper.backends.speculate`). The drafter looks back on the answer only, and its keys are computed again instead of
cached. Nothing is lost because tokens are drawn with common random numbers. The released online trainer lays token and
hidden state of one place together; here, as in the released offline trainer, a token stands beside the state before it.
"""

from __future__ import annotations

from typing import Any

from temper.backends.speculate import Speculation
from temper.method import Method
from temper.models.drafter import HiddenDrafter
from temper.parts.drafters import TrainDrafter

SLUG = "tlt-adaptive-drafter"
TITLE = "TLT's adaptive drafter"
PAPER = "arXiv 2511.16665"
FAMILY = "rollouts"
HOOKS = ("rollout", "state")
RECIPE = "tlt-adaptive-drafter"


def tlt_adaptive_drafter(
    policy: Any, *, rows: int = 32, most: int = 6, knee: int = 16, window: int = 64, **training: Any
) -> Method:
    """rows, most, knee: see `Speculation`; window: see `HiddenDrafter`; training: fields of `TrainDrafter`."""
    policy.drafts = Speculation(HiddenDrafter(window), most=most, rows=rows, knee=knee)
    return Method(on_batch=[TrainDrafter(policy, **training)])
