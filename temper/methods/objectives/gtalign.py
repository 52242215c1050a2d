"""GTAlign

Paper: "GTAlign: Game-Theoretic Alignment of LLM Assistants for Mutual Welfare", 2025, arXiv 2510.08872; code
ulab-uiuc/GTAlign.
Hook: reward (of two parties, multiplied), loss (PPO with a critic), rollout (steered, for use alone).
Claim: about 21.5 % more efficient reasoning, 4.9 % better answers and 7.2 % more mutual welfare than the baselines.

    <thinking>…</thinking><payoff>{"DQ_DA": {"user": u, "LLM": v}, …six cells}</payoff><analyze>…</analyze>
    <response>…</response>;    score = √(U·A), 0 where the response or the table cannot be read
    U = ε + ½·answer + 0.2·window(response, 20–500 words) + 0.3·exp(−reasoning characters/500),  ε = 10⁻⁴
    A = ε + 0.2·format + 0.2·apart + 0.4·answer + 0.2·window(whole, 500–1000 words)

∂√(UA)/∂U = ½√(A/U): the poorer party has the larger share of the gradient, and what one gains at the other's expense
lowers the score; the mean of the two (`form`) does neither. ε keeps an order where a part is 0. Payoffs are what the
model says of itself: `apart` only sees to it that the parties' numbers differ. Whitening hides the score's absolute
scale. sections=False is for models that write none: think, then answer; the part for payoffs is left out. At use,
`temper.envs.steered.Steered` prices the table, picks the cell with the largest product, and feeds its plan; the
published code asks anew with that plan in the prompt, and multiplies two negative payoffs to a positive product.
Left out: judges of single data sets. The answer is what the run's reward says: give each data set its own.
"""

from __future__ import annotations

from typing import Any, Literal

from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Whiten
from temper.parts.kl import TOKEN_REWARD, KLReward
from temper.parts.logprobs import reference_logp
from temper.parts.losses import Clip
from temper.parts.shaping import SHAPED
from temper.parts.values import GAE, ValueHead, ValueLoss, old_values
from temper.parts.welfare import Welfare
from temper.stage import Stage

SLUG = "gtalign"
TITLE = "GTAlign"
PAPER = "arXiv 2510.08872"
FAMILY = "objectives"
HOOKS = ("reward", "loss", "rollout")
RECIPE = "gtalign"


def gtalign(
    policy: Any,
    *,
    form: Literal["geometric", "arithmetic"] = "geometric",
    sections: bool = True,
    lengths: float = 1.0,
    reference: Any = None,
    beta: float = 1e-3,
    gamma: float = 1.0,
    lam: float = 1.0,
    clip: float = 0.2,
    value_coef: float = 0.1,
    minibatches: int = 16,
) -> Method:
    """form, sections, lengths: see `Welfare`; beta: weight of the KL to `reference`, in the reward."""
    head = ValueHead()
    penalty: list[Stage] = [] if reference is None else [reference_logp(reference), KLReward(beta)]
    gae = GAE(gamma, lam, SHAPED, TOKEN_REWARD if penalty else None)
    return Method(
        on_batch=[Welfare(form, sections, lengths), *penalty, old_values(policy, head), gae, Whiten()],
        terms=[
            Term("policy", Clip(clip, clip), per=token_mean),
            Term("value", ValueLoss(head), coef=value_coef, per=token_mean),
        ],
        minibatches=minibatches,
        policies={} if reference is None else {"reference": reference},
    )
