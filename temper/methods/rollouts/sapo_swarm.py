"""Swarm sampling (SAPO)

Paper: Amico et al., "Sharing is Caring: Efficient LM Post-Training with Collective RL Experience Sharing", 2025,
arXiv 2509.08721.
Hook: stage (others' answers join the batch as text), gate (only of groups whose rewards differ), advantage, loss.
Claim: eight nodes of 0.5 B, 2,000 rounds, nine kinds of tasks: 4 groups of one's own and 4 of others collect 94 % more
reward than 8 of one's own (1093 against 562); 2 and 6 collect 68 % more, and oscillate.
Left out: the blockchain, discovery and the exchange over Hivemind (nodes meet in a folder and speak HTTP on one
machine); senders' log-probs, which receivers cannot check.
An answer of another node is encoded by one's own tokenizer, judged by one's own judges, and scored by one's own policy
before the update, so that ρ = 1 ("on-policy by fiat", which is biased). The released code draws from all groups that
it heard of, also those of equal rewards, and reads old log-probs only when it makes several updates, which is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temper import streams
from temper.carrier import Batch
from temper.columns import AUTHOR, FINISH, REWARD, TASK, TEMPERATURE, TURN_TEXT
from temper.gateway.exchange import Exchange
from temper.gateway.payloads import Answers, answers_of
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.logprobs import OLD, old_logp
from temper.parts.losses import Clip
from temper.parts.signals import RewardVaries
from temper.stage import Stage

SLUG = "sapo-swarm"
TITLE = "Swarm sampling (SAPO)"
PAPER = "arXiv 2509.08721"
FAMILY = "rollouts"
HOOKS = ("stage", "gate", "advantage", "loss")
RECIPE = "sapo-swarm"


@dataclass
class Share:
    """Publishes the batch's answers as text; `external` of the others' groups whose rewards differ here join it.

    judges    stages that write REWARD, as for one's own answers
    exchange  None: nobody is there
    """

    policy: Any
    judges: Sequence[Stage]
    external: int = 4
    exchange: Exchange | None = None
    seed: int = 0
    metrics: dict[str, float] = field(default_factory=dict, init=False)
    reads = (REWARD, TASK, TURN_TEXT, AUTHOR, FINISH, TEMPERATURE)
    writes = ()

    def __post_init__(self) -> None:
        self.round = 0

    async def __call__(self, b: Batch) -> Batch:
        heard = await self.exchange.gather(self.round, answers_of(b)) if self.exchange else {}
        own = self.exchange.node if self.exchange else ""
        temperature = float(b[TEMPERATURE][b.structure.sampled][0])
        groups = [(who, a) for who in sorted(heard) for a in heard[who]]
        judged = [await self._judge(a, f"{self.round}/{who}/{n}", temperature) for n, (who, a) in enumerate(groups)]
        useful = [g for g in judged if RewardVaries()(g)]
        order = streams.generator(self.seed, "share", own, self.round).permutation(len(useful))
        taken = [useful[i] for i in order[: self.external]]
        self.metrics = {
            "swarm/nodes": float(len(heard)), "swarm/groups": float(len(groups)), "swarm/useful": float(len(useful)),
            "swarm/taken": float(len(taken)), "swarm/own_reward": float(b[REWARD].nanmean()),
            **(self.exchange.metrics if self.exchange else {}),
        }  # fmt: skip
        self.round += 1
        return Batch.concat([b, *taken])

    async def _judge(self, a: Answers, name: str, temperature: float) -> Batch:
        group = Batch.of(a.episodes(self.policy.tokenizer, name, temperature))
        for judge in self.judges:
            group = await judge(group)
        return group

    def close(self) -> None:
        if self.exchange is not None:
            self.exchange.close(linger=min(30.0, self.exchange.timeout))

    def state_dict(self) -> dict[str, Any]:
        return {"round": self.round}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.round = saved["round"]


def sapo_swarm(
    policy: Any,
    judges: Sequence[Stage] = (),
    *,
    external: int = 4,
    exchange: Exchange | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    seed: int = 0,
) -> Method:
    """external: J of the paper's I/J; I is the number of tasks in a step."""
    return Method(
        on_batch=[Share(policy, judges, external, exchange, seed), Advantage(), old_logp(policy)],
        terms=[Term("policy", Clip(clip_low, clip_high, old=OLD), per=token_mean)],
    )
