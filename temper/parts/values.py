"""Actor–critic: a value head on the policy's hidden states, GAE along each trajectory, and the clipped value loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from temper.carrier import Batch
from temper.columns import ADVANTAGE, HIDDEN, REWARD, TOKEN, Column, floating
from temper.parts.advantages import rewards_along
from temper.parts.logprobs import Read
from temper.parts.walks import Walk

VALUE = Column("value", TOKEN, floating, "expected return before the token is sampled")
OLD_VALUE = VALUE.of("old")
RETURN = Column("return", TOKEN, floating, "what the value head regresses on: advantage + old value")


class ValueHead(nn.Module):
    """V = w·h + c on the hidden state that predicted the token; starts at V = 0.

    The learner calls `build(width)` before it makes the optimiser.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear: nn.Linear | None = None

    def build(self, width: int) -> None:
        self.linear = nn.utils.skip_init(nn.Linear, width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, width] -> [tokens]"""
        assert self.linear is not None, "the learner builds a value head before it is used"
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)
        return values


@dataclass(frozen=True)
class ReadValue:
    """The head's value of every token: a source for `Read`."""

    head: ValueHead
    reads = (HIDDEN,)

    def __call__(self, b: Batch) -> Tensor:
        return self.head(b[HIDDEN])


def old_values(policy: Any, head: ValueHead) -> Read:
    """V_old: the values before the update."""
    return Read(policy, {OLD_VALUE: ReadValue(head)})


@dataclass(frozen=True)
class GAE:
    """A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γV_{t+1} − V_t, and the return R = A + V.

    Schulman et al. 2016 (arXiv 1506.02438, eqs. 12 and 16). Along each trajectory's sampled tokens in the order of its
    turns: tool output is no row, so (V_{t+1}, A_{t+1}) is carried over it. V = 0 after the last token. Where several
    trajectories share a token, it gets their mean.
    token_reward  a TOKEN column beside the trajectory's reward (a KL penalty); NaN counts as 0
    """

    gamma: float = 1.0
    lam: float = 0.95
    reward: Column = REWARD
    token_reward: Column | None = None
    value: Column = OLD_VALUE
    writes = (ADVANTAGE, RETURN)

    @property
    def reads(self) -> tuple[Column, ...]:
        return (self.reward, self.value) + (() if self.token_reward is None else (self.token_reward,))

    async def __call__(self, b: Batch) -> Batch:
        walk = Walk.of(b)
        value = b[self.value][walk.token]
        r = rewards_along(b, walk, self.reward, self.token_reward)
        delta = r + self.gamma * walk.following(value) - value
        a = walk.per_token(walk.discounted(delta, self.gamma * self.lam))
        return b.put(ADVANTAGE, a).put(RETURN, a + b[self.value])


@dataclass(frozen=True)
class ValueLoss:
    """½·max((V − R)², (clip(V, V_old ± clip) − R)²); clip=None leaves out the second.

    train_trunk  let the gradient reach the policy's own weights (a shared trunk), not the head alone
    """

    head: ValueHead
    clip: float | None = 0.2
    train_trunk: bool = True

    @property
    def reads(self) -> tuple[Column, ...]:
        return (HIDDEN, RETURN, OLD_VALUE)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.head,)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        target, old = b[RETURN], b[OLD_VALUE]
        hidden = b[HIDDEN] if self.train_trunk else b[HIDDEN].detach()
        value = self.head(hidden).to(target.device)
        error = (value - target).square()
        if self.clip is not None:
            near = torch.clamp(value, old - self.clip, old + self.clip)
            error = torch.maximum(error, (near - target).square())
        return 0.5 * error, {"value": value.detach()}
