"""A method in one file: credit goes to the words that surprised the model, and less to those it was sure of.

    temper run examples/my_method.py --steps 20
    temper run examples/my_method.py --power 2 --data tasks.jsonl --reward math_verify

A column of its own, a stage that writes it, a loss that reads it, and a recipe.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, TOKEN, TRAJECTORY, Column, floating
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.run import Run

BEHAVIOUR = LOGP.of("behaviour")
SURPRISE = Column("surprise", TOKEN, floating, "−log π of the sampler over its mean in the trajectory, to a power")


@dataclass(frozen=True)
class Surprise:
    """SURPRISE = (s_t / mean_t s_t)^power, s = −log π_behaviour."""

    power: float = 1.0
    reads = (BEHAVIOUR,)
    writes = (SURPRISE,)
    wanted = True  # the run is refused when nothing reads what this writes

    async def __call__(self, b: Batch) -> Batch:
        s = -b[BEHAVIOUR]
        mean = b.spread(b.mean(s, TOKEN, TRAJECTORY), TRAJECTORY, TOKEN)
        return b.put(SURPRISE, (s / mean.clamp(min=1e-6)) ** self.power)


class Weighted:
    """−A·w·ρ with w = SURPRISE."""

    reads = (LOGP, BEHAVIOUR, ADVANTAGE, SURPRISE)

    def __call__(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ratio = (b[LOGP] - b[BEHAVIOUR]).exp()
        return -b[ADVANTAGE] * b[SURPRISE] * ratio, {"ratio": ratio.detach()}


@extends(post_train, without=("method", "name"))
def my_method(power: float = 1.0, **options: Any) -> Run:
    """Policy gradient weighted by surprise.

    power  of the weight: 0 is the plain policy gradient
    """
    terms = [Term("policy", Weighted(), per=token_mean)]
    method = Method(on_group=[Advantage(), Surprise(power)], terms=terms)
    return post_train(lambda policy: method, name="surprise", **options)
