"""Runs drawn at random from the parts: a curriculum, a rollout, shaping, a credit, a loss, extra terms, a schedule.

python -m tests.contract.combinations [N]    how many of N are refused, and docs/combinations.md
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from temper.backends.base import AdamW, SamplingParams
from temper.columns import ENTROPY, LOGP, REWARD, Column
from temper.envs.branching import Branching
from temper.envs.chunked import Chunked
from temper.envs.refine import Refine
from temper.envs.single import SingleTurn
from temper.envs.tools import ToolUse
from temper.envs.try_again import TryAgain
from temper.errors import UserError
from temper.methods.objectives.fiberpo import Fiber, GroupFiber
from temper.methods.objectives.karl_oapl import Regression, SoftValue
from temper.methods.objectives.outcome_exploration import AnswerBonus
from temper.methods.objectives.stable_reinforce import FilterOutliers, PreClip
from temper.objective import Term, Update, luspo, row_mean, seq_mean_token_mean, seq_mean_token_sum, token_mean
from temper.parts import advantages as adv
from temper.parts import losses
from temper.parts.curricula import Generated, Mixture, Shuffled
from temper.parts.gates import (
    DEMONSTRATION,
    HIGH_ENTROPY,
    NOT_TRUNCATED,
    ClipCovSelect,
    KLCovSelect,
    MarkDemonstrations,
    NotTruncated,
    TopEntropy,
)
from temper.parts.hybrid import Hybrid
from temper.parts.kl import KL, TOKEN_REWARD, Adaptive, KLReward, k2, k3
from temper.parts.logprobs import OLD, OLD_ENTROPY, REFERENCE, Read, reference_logp
from temper.parts.ratios import TIS_WEIGHT, TruncatedIS, corrected
from temper.parts.schedules import Cosine, Linear, WarmUp
from temper.parts.sft import NLL
from temper.parts.shaping import Clamp, MissingEnd, Overlong
from temper.parts.signals import RewardVaries
from temper.parts.trees import SegmentAdvantage, SubtreeAdvantage
from temper.parts.values import GAE, ValueHead, ValueLoss, old_values
from temper.policy import Policy
from temper.run import Run
from temper.stage import Stage
from temper.tasks.task import Task
from temper.testing import ToyReward, random_ends, toy_tasks

PAGE = Path(__file__).parents[2] / "docs" / "combinations.md"
STEPS = 3


@dataclass
class Pieces:
    """What a choice adds to a run."""

    on_group: list[Stage] = field(default_factory=list)
    on_batch: list[Stage] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)


@dataclass
class Context:
    """What choices share: the policy, its reference, and the column that shaping has made of the reward so far."""

    policy: Policy
    reference: Policy
    reward: Column = REWARD

    def into(self) -> Column:
        name = f"{self.reward.name.partition('@')[2]}+" if self.reward != REWARD else "shaped"
        return REWARD.of(name)


def made(n: int) -> Task:
    return replace(toy_tasks()[n % 6], id=f"made/{n}")


def few(tasks: slice, seed: int) -> Shuffled:
    return Shuffled(toy_tasks()[tasks], 3, seed)


CURRICULA: dict[str, Callable[[int], Any]] = {
    "Shuffled": lambda seed: few(slice(None), seed),
    "Generated": lambda seed: Generated(made, 3),
    "Mixture": lambda seed: Mixture([(2.0, few(slice(0, 3), seed)), (1.0, few(slice(3, 6), seed))]),
}
ROLLOUTS: dict[str, Callable[[], Any]] = {
    "SingleTurn": SingleTurn,
    "SingleTurn with a system message": lambda: SingleTurn(system="Be brief.", prefill="So "),
    "ToolUse": lambda: ToolUse(turns=2),
    "TryAgain": lambda: TryAgain(turns=2),
    "Chunked": lambda: Chunked(chunk=4, carry=2, head=2, chunks=2),
    "Branching": lambda: Branching(width=3, segment=2, depth=2),
    "Refine": lambda: Refine(rounds=(2,), room=6),
}
SHAPING: dict[str, Callable[[Context], Stage]] = {
    "Overlong": lambda c: Overlong(8, 6, 0.5, c.reward, c.into()),
    "MissingEnd": lambda c: MissingEnd(0.25, c.reward, c.into()),
    "Clamp": lambda c: Clamp(-0.2, 0.8, c.reward, c.into()),
}


def whole_group(stage: Callable[[Context], Stage]) -> Callable[[Context], Pieces]:
    return lambda c: Pieces(on_group=[stage(c)])


def gae(c: Context) -> Pieces:
    head = ValueHead()
    return Pieces(on_batch=[old_values(c.policy, head), GAE(reward=c.reward)], terms=[Term("value", ValueLoss(head))])


CREDIT: dict[str, Callable[[Context], Pieces]] = {
    "Advantage": whole_group(lambda c: adv.Advantage(reward=c.reward)),
    "Advantage, leave one out": whole_group(lambda c: adv.Advantage(adv.leave_one_out, adv.unscaled, c.reward)),
    "Advantage, no baseline": whole_group(lambda c: adv.Advantage(adv.no_baseline, adv.unscaled, c.reward)),
    "Advantage, by length": whole_group(lambda c: adv.Advantage(adv.length_weighted_mean, adv.GROUP_STD, c.reward)),
    "Advantage, all but best": whole_group(lambda c: adv.Advantage(adv.all_but_best, adv.unscaled, c.reward)),
    "Advantage, batch": lambda c: Pieces(on_batch=[adv.Advantage(adv.batch_mean, adv.BatchStd(), c.reward)]),
    "ReturnToGo": lambda c: Pieces(on_batch=[adv.ReturnToGo(0.9, c.reward), adv.Whiten()]),
    "ReturnToGo with KL": lambda c: Pieces(
        on_batch=[reference_logp(c.reference), KLReward(Adaptive()), adv.ReturnToGo(1.0, c.reward, TOKEN_REWARD),
                  adv.Whiten(), FilterOutliers()]
    ),
    "GAE": gae,
    "SubtreeAdvantage": whole_group(lambda c: SubtreeAdvantage(reward=c.reward)),
    "SegmentAdvantage": whole_group(lambda c: SegmentAdvantage(reward=c.reward)),
    "Advantage and AnswerBonus": lambda c: Pieces(on_group=[adv.Advantage(reward=c.reward), AnswerBonus()]),
    "SoftValue": whole_group(lambda c: SoftValue()),
}  # fmt: skip


def policy(
    loss: Any, per: Any = token_mean, where: Column | None = None, *stages: Stage
) -> Callable[[Context], Pieces]:
    return lambda c: Pieces(on_batch=list(stages), terms=[Term("policy", loss, per=per, where=where)])


LOSSES: dict[str, Callable[[Context], Pieces]] = {
    "Reinforce": policy(losses.Reinforce(), seq_mean_token_sum),
    "Surrogate": policy(losses.Surrogate()),
    "Clip": policy(losses.Clip(), seq_mean_token_mean),
    "Clip, dual": policy(losses.Clip(0.2, 0.28, 3.0)),
    "Clip, not truncated": policy(losses.Clip(), token_mean, NOT_TRUNCATED, NotTruncated()),
    "Clip, high entropy": lambda c: Pieces(
        on_batch=[Read(c.policy, {OLD_ENTROPY: ENTROPY}), TopEntropy()],
        terms=[Term("policy", losses.Clip(), where=HIGH_ENTROPY)],
    ),
    "Clip, corrected": lambda c: Pieces(
        on_batch=[Read(c.policy, {OLD: LOGP}), TruncatedIS()],
        terms=[Term("policy", corrected(losses.Clip(old=OLD), TIS_WEIGHT))],
    ),
    "PreClip": policy(PreClip()),
    "GSPO": policy(losses.GSPO(), seq_mean_token_mean),
    "GSPO, LUSPO": policy(losses.GSPO(), luspo),
    "GMPO": policy(losses.GMPO(), seq_mean_token_mean),
    "CISPO": policy(losses.CISPO()),
    "SAPO": policy(losses.SAPO(), seq_mean_token_mean),
    "VESPO": policy(losses.VESPO(), seq_mean_token_mean),
    "KLCov": policy(losses.KLCov(), token_mean, None, KLCovSelect(0.1)),
    "Fiber": policy(Fiber(), seq_mean_token_mean),
    "GroupFiber": policy(GroupFiber(), row_mean),
    "Hybrid": lambda c: Pieces(
        on_batch=[MarkDemonstrations(), Read(c.policy, {OLD: LOGP})], terms=[Term("policy", Hybrid())]
    ),
    "Regression": policy(Regression(), row_mean),
    "Clip with an idle gate": policy(losses.Clip(), token_mean, None, ClipCovSelect(0.1)),
}
EXTRA: dict[str, Callable[[Context], Pieces]] = {
    "entropy bonus": lambda c: Pieces(terms=[Term("entropy", losses.EntropyBonus(), coef=0.01)]),
    "KL, k3": lambda c: Pieces([], [reference_logp(c.reference)], [Term("kl", KL(k3), coef=Linear(0.0, 0.1, 3))]),
    "KL, k2": lambda c: Pieces([], [reference_logp(c.reference)], [Term("kl", KL(k2, REFERENCE), coef=0.05)]),
    "imitation of demonstrations": lambda c: Pieces(
        on_group=[MarkDemonstrations()], terms=[Term("imitation", NLL(), coef=0.5, where=DEMONSTRATION)]
    ),
}
SCHEDULES: dict[str, Any] = {
    "constant": 1e-3, "linear": Linear(1e-3, 0.0, 9), "cosine": Cosine(1e-3, 0.0, 9), "warm-up": WarmUp(1e-3, 2),
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One drawn combination, by the names of its parts."""

    curriculum: str
    rollout: str
    shaping: tuple[str, ...]
    credit: str
    loss: str
    extra: tuple[str, ...]
    schedule: str
    minibatches: int
    refill: bool
    seed: int

    def __str__(self) -> str:
        extra = " + ".join(self.extra) or "nothing"
        return (
            f"{self.curriculum} | {self.rollout} | {' > '.join(self.shaping)} | {self.credit} | {self.loss} | {extra}"
        )


def choice(n: int) -> Choice:
    """The n-th combination."""
    draw = Random(f"combination/{n}")
    return Choice(
        draw.choice(list(CURRICULA)), draw.choice(list(ROLLOUTS)),
        tuple(draw.sample(list(SHAPING), draw.randint(2, 3))),
        draw.choice(list(CREDIT)), draw.choice(list(LOSSES)), tuple(draw.sample(list(EXTRA), draw.randint(0, 2))),
        draw.choice(list(SCHEDULES)), draw.randint(1, 2), draw.random() < 0.2, n,
    )  # fmt: skip


def build(which: Choice, model: str) -> Run:
    """The run. UserError where the combination is refused."""
    policy = Policy(model=model, optimizer=AdamW(lr=SCHEDULES[which.schedule]))
    c = Context(policy, policy.reference())
    env, stages = ROLLOUTS[which.rollout](), list[Stage]()
    for name in which.shaping:
        stages.append(SHAPING[name](c))
        c.reward = stages[-1].writes[0]
    chosen = [CREDIT[which.credit](c), LOSSES[which.loss](c), *(EXTRA[name](c) for name in which.extra)]
    return Run(
        name="combination",
        env=env,
        curriculum=CURRICULA[which.curriculum](which.seed),
        roles=dict.fromkeys(env.roles, policy),
        on_group=[ToyReward(), *stages, *(s for p in chosen for s in p.on_group)],
        on_batch=[s for p in chosen for s in p.on_batch],
        updates=[Update(policy, [t for p in chosen for t in p.terms], minibatches=which.minibatches)],
        others=[c.reference],
        signal=RewardVaries() if which.refill else None,
        keep_silent=which.refill,
        steps=STEPS,
        groups=2,
        sampling=random_ends(SamplingParams(max_tokens=6)),
        seed=which.seed,
    )


def refusal(which: Choice) -> str:
    """Why the combination is refused before anything loads; empty: it is not."""
    try:
        build(which, "temper-tiny")
    except UserError as error:
        return str(error)
    return ""


def page(n: int) -> str:
    """docs/combinations.md: what was drawn, and every reason for a refusal with the parts that led to it."""
    drawn = [choice(k) for k in range(n)]
    said = {k: why for k, which in enumerate(drawn) if (why := refusal(which))}
    reasons = Counter(said.values())
    kinds = {"curricula": CURRICULA, "rollouts": ROLLOUTS, "shaping stages": SHAPING, "credits": CREDIT,
             "policy losses": LOSSES, "extra terms": EXTRA, "learning-rate schedules": SCHEDULES}  # fmt: skip
    lines = [
        "# What composes", "",
        f"`tests/contract/test_combinations.py` draws {n} runs: a curriculum, a rollout, two or three shaping stages "
        "one upon the other, a credit, a policy loss, up to two extra terms and a schedule. Each is built; then it is "
        "either refused in one sentence before any model loads, or it trains three steps, resumes to the last bit from "
        "a checkpoint in the middle, and has the same gradient (1e-12) however its batch is cut. This page is written "
        "by `python -m tests.contract.combinations`.", "",
        "| drawn from | |", "| --- | --- |",
        *(f"| {len(parts)} {kind} | {', '.join(parts)} |" for kind, parts in kinds.items()), "",
        f"{n - len(said)} of {n} run; {len(said)} are refused:", "",
        "| refused | reason |", "| --- | --- |",
        *(f"| {times} | {why} |" for why, times in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))), "",
    ]  # fmt: skip
    return "\n".join(lines)


N = 250

if __name__ == "__main__":
    PAGE.write_text(page(int(sys.argv[1]) if len(sys.argv) > 1 else N))
    print(PAGE.read_text())
