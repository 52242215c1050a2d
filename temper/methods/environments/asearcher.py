"""ASearcher

Paper: Gao et al., "Beyond Ten Turns: Unlocking Long-Horizon Agentic Search with Large-Scale Asynchronous RL", 2025,
arXiv 2508.07976; code inclusionAI/ASearcher.
Hook: env (search, access, answer; results are read in full, pages remembered shortened), reward (F1 times 1 if every
call is well-formed, −0.5 for rejecting a valid question: `AnswerReward("set", -0.5)`), advantage, loss (decoupled PPO),
signal.
Claim: QwQ-32B gains 46.7 % (xBench) and 20.8 % (GAIA) Avg@4; calls exceed 40.
Asynchronous rollout is the run's: `Run.ahead = 4` lets weights up to 4 updates old sample, `Run.sync` says how samplers
that go on meanwhile change theirs (docs/how-to-async.md). Every token keeps the version and the log-prob that it was
sampled under. One local sampler shares the learner's weights: its episodes are of one version each, in a fixed order.
Deviations: the sheet's "capped at 5" is a mask in the code: tokens with π_prox/π_behaviour above 5 are left out. The
code whitens advantages over the tokens of the batch after the scale (10) and the bias (−0.5), which cancels both, up to
its clip at ±20; `whiten=False` shows them. Search results stay in full in later contexts, pages do not. Whether a
prompt says that its question is valid is drawn by the task, once for good. The prompt is our own.
Left out: nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temper.carrier import Batch
from temper.columns import ADVANTAGE
from temper.envs.search import Engine, Research
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage, Whiten, unscaled
from temper.parts.logprobs import old_logp
from temper.parts.losses import Clip
from temper.parts.ratios import Cut, TruncatedIS, corrected, mask
from temper.parts.signals import RewardVaries
from temper.stage import Stage

SLUG = "asearcher"
TITLE = "ASearcher"
PAPER = "arXiv 2508.07976"
FAMILY = "environments"
HOOKS = ("env", "reward", "advantage", "loss", "signal")
RECIPE = "asearcher"
PROMPT = (
    "Answer the question. Think between <think> and </think> about what you know and what you still need. Search with "
    "<search> query </search>, open a page with <access> url </access>; what comes back stands between <information> "
    "and </information>. Give the final answer between <answer> and </answer>, several separated by commas. "
    "{validity}Question: {question}"
)
VALIDITY = (
    "If no answer fits all that the question says, write <answer> the question is invalid. </answer> ",
    "Find the most likely answer. ",
)


@dataclass(frozen=True)
class Scaled:
    """A ← clip((A + bias)·scale, ±limit): AReaL's scale, bias and clip of rewards, behind the group's mean."""

    scale: float = 10.0
    bias: float = -0.5
    limit: float = 20.0
    reads = writes = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(ADVANTAGE, ((b[ADVANTAGE] + self.bias) * self.scale).clamp(-self.limit, self.limit))


def asearcher(
    policy: Any,
    *,
    engine: Engine,
    turns: int = 32,
    top: int = 5,
    document: int = 5000,
    page: int = 25_000,
    short: int = 100,
    explain: bool = True,
    valid: float = 0.3,
    scale: float = 10.0,
    bias: float = -0.5,
    whiten: bool = True,
    clip: float = 0.4,
    cap: float = 5.0,
    cut: Cut = mask,
    decoupled: bool = True,
    minibatches: int = 1,
) -> Method:
    """turns … short, valid, explain (its prompt): see `Research`. cap, cut: of π_prox/π_behaviour; decoupled=False:
    plain PPO against the sampler's log-probs."""
    prompt: dict[str, Any] = {"prompt": PROMPT, "validity": VALIDITY} if explain else {}
    loss = Clip(clip, clip)
    whitened: list[Stage] = [Whiten(eps=1e-10)] if whiten else []
    weighted: list[Stage] = [old_logp(policy), TruncatedIS(cap, cut=cut)] if decoupled else []
    return Method(
        on_group=[Advantage(scale=unscaled), Scaled(scale, bias)],
        on_batch=[*whitened, *weighted],
        terms=[Term("policy", corrected(loss) if decoupled else loss, per=token_mean)],
        signal=RewardVaries(),
        minibatches=minibatches,
        env=Research(engine, turns, 0, top, document, page, short=short, valid=valid, **prompt),
    )
