"""TRAAC

Paper: "Think Right: Learning to Mitigate Under-Over Thinking via Adaptive, Attentive Compression", 2025, arXiv
2510.01581; code joykirat18/TRAAC.
Hook: rollout (right attempts get a copy with shorter thinking), reward (short right answers, by how hard the task is).
Claim: 8.4 % more accuracy and 36.8 % fewer tokens than the base model, on average over AIME, AMC, GPQA and BBEH.

    score of a step of thinking: the mean attention that the end of thinking pays to it;  u their normalised entropy
    u > 0.8: nothing goes; else the lowest target·(1 − u) of the steps, target 0.6, 0.4, 0.2 (easy, medium, hard)
    reward = 4·correct + ¼ one pair of tags + ¼ in order + correct·s·max(clip((Lmax − L)/(Lmax − Lmin)),
             σ((median − L)/(0.1·median))),  s = 1, ¾, ½ by difficulty

Lengths are those of right answers of the last ten batches with the same source and difficulty; before there are any the
bonus is 0. Difficulty is the share of right attempts before copies are added: easy from 0.8 on, medium from 0.3. The
copies' thinking was not sampled, so π_old is the learner's own for every row. Attention is that of the starting
weights, in the first half of the layers.
Reconstructed: the number of steps that go is rounded. Ten batches before the present one count, not itself.
Left out: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.backends.base import SamplingParams
from temper.method import Method
from temper.objective import Term, seq_mean_token_mean
from temper.parts.advantages import Advantage
from temper.parts.compression import CUES, Compress
from temper.parts.kl import towards
from temper.parts.logprobs import OLD, old_logp
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED
from temper.parts.short_answers import LengthReward
from temper.stage import Stage

SLUG = "traac"
TITLE = "TRAAC"
PAPER = "arXiv 2510.01581"
FAMILY = "objectives"
HOOKS = ("rollout", "reward")
RECIPE = "traac"


def traac(
    policy: Any, *, judges: Sequence[Stage], frozen: Any, beta: float = 1e-3, compress: bool = True,
    target: tuple[float, ...] = (0.6, 0.4, 0.2), uniform: float = 0.8, cues: tuple[str, ...] = CUES,
    start: str = "<think>", end: str = "</think>", right: float = 1.0, sampling: SamplingParams | None = None,
    clip_low: float = 0.2, clip_high: float = 0.28, seed: int = 0, minibatches: int = 1,
) -> Method:  # fmt: skip
    """frozen: a copy of the starting weights, whose attention is read and which the KL of weight beta is towards;
    compress: shorter copies join; the others: see `Compress`."""
    sampling = sampling or SamplingParams()
    shorter: list[Stage] = [
        Compress(policy, frozen, judges, target, uniform, cues, start, end, right, sampling=sampling, seed=seed)
    ]
    stages, terms = towards(frozen if beta else None, beta)
    return Method(
        on_group=shorter if compress else [],
        on_batch=[LengthReward(start, end, right), Advantage(reward=SHAPED), old_logp(policy), *stages],
        terms=[Term("policy", Clip(clip_low, clip_high, old=OLD), per=seq_mean_token_mean), *terms],
        minibatches=minibatches,
        policies={"frozen": frozen} if compress or beta else {},
    )
