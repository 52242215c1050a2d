"""VERIRL

Paper: "VERIRL: Boosting the LLM-based Verilog Code Generation via Reinforcement Learning", 2025, arXiv 2508.18462;
code omniAI-Lab/VeriRL (prompts, test benches and inference only).
Hook: rollout (revisions by test results), reward (a model trained beside the policy), advantage (weights of samples).
Claim: best pass@k of systems with 7B weights on VerilogEval and RTLLM; either formula below adds to the pass rate.

    label_k = max over j ≥ k of γ^(j−k)·rate_j along a chain of revisions (trace-back rescore)
    w_i ∝ |r_i − r̄|·(1 − p̃_i)^κ, p̃ = exp(mean log π_behaviour), mean 1 over the batch (sample-balanced weight)
    REINFORCE++ on r = (1 − mix)·rate + mix·model;  phases: imitation, RL, imitation of what passes, RL

An attempt whose simulation did not end is not judged, rather than wrong. The model scores before it trains on a batch,
and is trained on the policy's samples of every step. Weights come from log-probs of the sampler: no gradient.
Reconstructed: both formulas (the abstract alone says what they are for), the mixture, and a model that answers yes or
no instead of one with a head of its own.
Left out: the data pipeline (MinHash, filters, generated test benches).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN, TRAJECTORY, Column, floating
from temper.errors import UserError
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import ReturnToGo, Whiten
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.losses import Clip
from temper.parts.reward_model import MIXED, Labels, RewardModel
from temper.request import Env
from temper.stage import Stage

SLUG = "verirl"
TITLE = "VERIRL"
PAPER = "arXiv 2508.18462"
FAMILY = "objectives"
HOOKS = ("rollout", "reward", "advantage")
RECIPE = "verirl"

WEIGHT = Column("sample_weight", TRAJECTORY, floating, "how much a sample counts, mean 1 over the judged ones")


@dataclass(frozen=True)
class SampleBalance:
    """A ← w·A, and WEIGHT = w: 1 each where all rewards are the same; NaN for what is not judged."""

    kappa: float = 1.0
    reads = (MIXED, BEHAVIOUR, ADVANTAGE)
    writes = (ADVANTAGE, WEIGHT)

    def __post_init__(self) -> None:
        if self.kappa < 0:
            raise UserError(f"kappa must not be negative, got {self.kappa:g}")

    async def __call__(self, b: Batch) -> Batch:
        r, p = b[MIXED], b.mean(b[BEHAVIOUR], TOKEN, TRAJECTORY).exp().clamp(max=1.0)
        known = ~(r + p).isnan()
        w = (r - r[known].mean()).abs() * (1 - p) ** self.kappa
        w = torch.where(known, w, torch.nan)
        mean = w[known].mean() if bool(known.any()) else torch.tensor(0.0)
        w = w / mean if float(mean) > 1e-6 else torch.where(known, 1.0, torch.nan)
        return b.put(WEIGHT, w).put(ADVANTAGE, b[ADVANTAGE] * b.spread(w, TRAJECTORY, TOKEN))


def verirl(
    policy: Any, *, reward_model: Any, env: Env | None = None, labels: Labels = "trace-back", gamma: float = 0.9,
    mix: float = 0.5, balance: bool = True, kappa: float = 1.0, clip: float = 0.2, minibatches: int = 1,
) -> Method:  # fmt: skip
    """reward_model: a trainable policy of its own; env: where attempts are revised (`temper.envs.revisions`);
    labels, gamma, mix: see `RewardModel`; balance, kappa: the weight of samples."""
    weigh: list[Stage] = [SampleBalance(kappa)] if balance else []
    return Method(
        on_batch=[RewardModel(reward_model, labels, gamma, mix), ReturnToGo(reward=MIXED), Whiten(), *weigh],
        terms=[Term("policy", Clip(clip, clip), per=token_mean)],
        minibatches=minibatches,
        policies={"reward_model": reward_model},
        env=env,
    )
