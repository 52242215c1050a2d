"""SD-E²

Paper: "SD-E²: Semantic Exploration for Reasoning Under Token Budgets", 2026, arXiv 2601.17982; no code is known.
Hook: reward (how different the strategies of one answer are, by their embeddings), advantage (scores over the batch).
Claim: Qwen2.5-3B-Instruct 82.03 on GSM8K, 5.2 and 1.5 above two rewards with GRPO; 9.8 strategies to a question.

    one answer holds several strategies; e_s their embeddings, a cluster opened where every cosine is below τ = 0.8
    diversity = ½·min(clusters, most)/most + ½·mean over clusters' pairs of (1 − cosine), for right answers
    efficiency = 1 − (attempts after the first right one)/most;  clusters/(2·most) where none is right
    reward = Σ_k w_k·z_k over correct, form, diversity, efficiency, z over the batch;  GRPO with the batch's σ, and a KL

A strategy that opens no cluster changes nothing in the diversity, so more tokens alone do not pay. A part that is the
same for all has z = 0.
Reconstructed: the halves, τ, `most`, and the efficiency; only that there are such parts is known. That diversity counts
for right answers alone (`gated`) is an addition, against nonsense.
Left out: the paper's encoder, which is not named: `SentenceEmbedder` takes any; without one, hashed n-grams compare the
wording.
"""

from __future__ import annotations

from typing import Any

from temper.columns import REWARD
from temper.method import Method
from temper.models.embeddings import Embedder
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, BatchStd, group_mean
from temper.parts.kl import towards
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED
from temper.parts.strategies import (
    DIVERSITY,
    EFFICIENCY,
    FORM,
    NGRAMS,
    BatchScores,
    Right,
    Segmenter,
    StrategyRewards,
    ends_in_answer,
    segments,
)

SLUG = "sd-e2"
TITLE = "SD-E²"
PAPER = "arXiv 2601.17982"
FAMILY = "objectives"
HOOKS = ("reward", "advantage")
RECIPE = "sd-e2"


def sd_e2(
    policy: Any,
    *,
    embedder: Embedder = NGRAMS,
    segmenter: Segmenter = segments,
    right: Right = ends_in_answer,
    diversity: float = 1.0,
    form: float = 1.0,
    efficiency: float = 1.0,
    tau: float = 0.8,
    most: int = 5,
    gated: bool = True,
    reference: Any = None,
    beta: float = 1e-3,
    clip: float = 0.2,
    minibatches: int = 1,
) -> Method:
    """diversity, form, efficiency: weights beside 1 for a right answer; tau … gated: see `StrategyRewards`."""
    stages, terms = towards(reference, beta)
    weights = {REWARD: 1.0, DIVERSITY: diversity, FORM: form, EFFICIENCY: efficiency}
    return Method(
        on_batch=[
            StrategyRewards(embedder, segmenter, right, tau, most, gated=gated),
            BatchScores(weights),
            Advantage(group_mean, BatchStd(), SHAPED),
            *stages,
        ],
        terms=[Term("policy", Clip(clip, clip), per=token_mean), *terms],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
