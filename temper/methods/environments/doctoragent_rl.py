"""DoctorAgent-RL

Paper: Feng et al., "DoctorAgent-RL: A Multi-Agent Collaborative Reinforcement Learning System for Multi-Turn Clinical
Dialogue", 2025, arXiv 2505.19630; mechanics as in the released code (JarvisUSTC/DoctorAgent-RL, on RAGEN).
Hook: env (doctor against patient, a turn budget that is drawn and shown), reward (every turn's: +1 informative, −1 not
known, −2 repeated, not one question or malformed, −5 no diagnosis in time, 0–5 for each of diagnosis and
recommendation; their sum), advantage (by the group's mean and deviation), loss (clip-higher, entropy bonus).
Claim: better questions and diagnoses than baselines; reinforcement and dynamic budgets beat the supervised start.
Left out: the judge models' weights (a rubric of words; `Consultation.rubric` takes a model). In the release a
malformed turn at the cap goes on and never pays −5, and a reply with "Sorry" anywhere in it counts as not known; here
the last turn without a diagnosis always pays and ends, and only a reply that begins with it is not known. The release
draws a budget for every attempt, here the attempts at a task share it.
"""

from __future__ import annotations

from typing import Any

from temper.envs.consultation import Consultation
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip, EntropyBonus
from temper.parts.turns import SumOfTurns

SLUG = "doctoragent-rl"
TITLE = "DoctorAgent-RL"
PAPER = "arXiv 2505.19630"
FAMILY = "environments"
HOOKS = ("rollout", "reward", "advantage", "loss")
RECIPE = "doctoragent-rl"


def doctoragent_rl(
    policy: Any,
    *,
    env: Consultation | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    entropy: float = 1e-3,
    minibatches: int = 1,
) -> Method:
    """For the doctor. env: None is a patient that is a policy, and 2 to 10 turns; entropy: weight of the bonus."""
    return Method(
        env=env or Consultation(),
        on_group=[SumOfTurns(), Advantage()],
        terms=[
            Term("policy", Clip(clip_low, clip_high), per=token_mean),
            *([Term("entropy", EntropyBonus(), coef=entropy, per=token_mean)] if entropy else []),
        ],
        minibatches=minibatches,
    )
