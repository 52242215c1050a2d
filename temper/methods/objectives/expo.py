"""ExPO

Paper: "ExPO: Unlocking Hard Reasoning with Self-Explanation-Guided Reinforcement Learning", 2025, arXiv 2507.02834.
Hook: rollout (the policy explains an answer that it is told), loss (imitation beside GRPO, or preference pairs).
Claim: MATH level 5 with Qwen2.5-3B-Instruct: 2 % with GRPO, 12 % with imitation of expert solutions beside it, 23 %
with self-explanations; as DPO 54.3 against 43.7 with expert solutions (offline, pass@4 on MATH).

    c̃ ~ π_θ(·|x, a*), trained as if produced from x alone
    ExP-GRPO  J_GRPO + β·log π_θ(c̃, a*|x), β falling: there is something to learn where every attempt fails
    ExP-DPO   chosen (c̃, a*), rejected an own wrong attempt

Log-probs are under x: those that the explanation was sampled with belong to another prompt, and no ratio is formed. It
is likely under x, since the policy wrote it, and makes a* likelier, since it ends in it. The first that its judges find
right is taken; bare restatements and those that speak of the hint are not.
Reconstructed: the words of the hint, `shortest`, and that β falls linearly to 0. refresh = 0 is online; a large number
is offline (explanations of the first weights, which drift out of what the policy would say).
Left out: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import INFO, REWARD
from temper.errors import UserError
from temper.method import Method
from temper.objective import Coefficient, Term, row_mean, seq_mean_token_mean, token_mean
from temper.parts.advantages import Advantage
from temper.parts.demonstrations import all_fail, is_demonstration
from temper.parts.explanations import HINT, SelfExplain
from temper.parts.gates import DEMONSTRATION, MarkDemonstrations
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip
from temper.parts.preferences import DPO, PAIRED, PairsFromReward
from temper.parts.schedules import Linear
from temper.parts.sft import NLL
from temper.stage import Stage

SLUG = "expo"
TITLE = "ExPO"
PAPER = "arXiv 2507.02834"
FAMILY = "objectives"
HOOKS = ("rollout", "loss")
RECIPE = "expo"

EXPLAINED = REWARD.of("explained")
FALLING = Linear(0.5, 0.0, 200)
ONE_ANSWER = SamplingParams()


@dataclass(frozen=True)
class ExplanationFirst:
    """EXPLAINED: 1 for the explanation, 0 for wrong attempts, NaN for the others: pairs are made of these."""

    right: float = 1.0
    reads = (REWARD, INFO)
    writes = (EXPLAINED,)
    wanted = True

    async def __call__(self, b: Batch) -> Batch:
        shown = is_demonstration(b)
        wrong = torch.where(b[REWARD] < self.right, 0.0, torch.nan)
        return b.put(EXPLAINED, torch.where(shown, 1.0, wrong))


def expo(
    policy: Any, *, judges: Sequence[Stage], form: Literal["grpo", "dpo"] = "grpo", reference: Any = None,
    beta: Coefficient = FALLING, dpo_beta: float = 0.1, only_failed: bool = False, hint: str = HINT, tries: int = 4,
    shortest: int = 8, refresh: int = 0, sampling: SamplingParams = ONE_ANSWER, system: str | None = None,
    prefill: str = "", clip: float = 0.2, seed: int = 0, minibatches: int = 1,
) -> Method:  # fmt: skip
    """form "dpo" needs a reference; beta: weight of the imitation by the optimiser step (0: plain GRPO);
    only_failed: explain where every attempt failed; the others: see `SelfExplain`."""
    when = all_fail if only_failed else None
    explain = SelfExplain(
        policy, judges, hint, tries, shortest, refresh=refresh, when=when, sampling=sampling, system=system,
        prefill=prefill, seed=seed,
    )  # fmt: skip
    if form == "dpo":
        if reference is None:
            raise UserError("preference pairs are compared with a reference: give expo one for form dpo")
        pairs: list[Stage] = [explain, ExplanationFirst(), PairsFromReward(EXPLAINED)]
        term = Term("policy", DPO(dpo_beta), per=row_mean, where=PAIRED)
        return Method(
            pairs, [reference_logp(reference)], [term], minibatches=minibatches, policies={"reference": reference}
        )
    terms = [Term("policy", Clip(clip, clip), per=seq_mean_token_mean)]
    if beta == 0:
        return Method([Advantage()], terms=terms, minibatches=minibatches)
    terms.append(Term("explanation", NLL(), coef=beta, per=token_mean, where=DEMONSTRATION))
    return Method([explain, Advantage(), MarkDemonstrations()], terms=terms, minibatches=minibatches)
