"""COVERT

Paper: Xu et al., "Controllable and Verifiable Tool-Use Data Synthesis for Agentic Reinforcement Learning", 2026,
arXiv 2604.09813. No code; only the abstract was at hand.
Hook: task source (`temper.tasks.toolworld_pool`), environment (`temper.envs.transforms`), reward.
Claim: RL in environments made harder with the same oracle calls and answer (distractor tools, indirect questions,
noisy, reformatted and failing results) lifts Qwen2.5-14B on BFCL v3 from 56.5 to 59.9, on ACEBench from 53.0 to 59.3.
Left out: the authors' prompts and judges. Synthesis by a model: the pool grows by rules, and `judge` is a hook.
Reconstructed: the reward (all calls and the answer; order free but for dependencies; at most `extra` harmless calls),
the transforms' shares and wordings, and the estimator (GRPO).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.envs.scenes import Scenes
from temper.method import Method
from temper.methods.objectives.grpo import grpo
from temper.parts.rewards import Rewards
from temper.rewards.calls import match, same
from temper.rewards.checkers import exact_match
from temper.rewards.load import Reward

SLUG = "covert"
TITLE = "COVERT"
PAPER = "arXiv 2604.09813"
FAMILY = "environments"
HOOKS = ("rollout", "reward")
RECIPE = "covert"

Calls = Sequence[Mapping[str, Any]]
Judge = Callable[[str, Sequence[Mapping[str, Any]]], bool]  # (the behaviour asked for, the dialogue)


@dataclass(frozen=True)
class Matched:
    """1 when every oracle call was made and the answer is right, else 0; with what was missing as extras.

    extra  most calls beside the oracle's; a failed attempt at one of those is none. Calls of tools in info["writes"],
           which change something, are never harmless
    judge  what decides whether the behaviour in info["behaviour"] was shown, which no reference can match. It must be
           importable from a file; ValueError when a task asks for a behaviour and there is no judge
    """

    extra: int = 2
    judge: Judge | None = None

    def __call__(
        self, completion: str, answer: str, oracle: Calls, calls: Calls = (), writes: Sequence[str] = (), 
        behaviour: str = "", messages: Calls = (),
    ) -> dict[str, float]:  # fmt: skip
        places = match(oracle, calls)
        beside = [
            c for p, c in enumerate(calls)
            if p not in places and not (c["outcome"] != "ok" and any(same(c, step) for step in oracle))
        ]  # fmt: skip
        harmless = len(beside) <= self.extra and not any(c["name"] in writes for c in beside)
        right = exact_match(completion, answer) == 1.0
        shown = not behaviour or self._judged(behaviour, messages)
        score = None not in places and harmless and right and shown
        made = sum(p is not None for p in places) / max(1, len(places))
        return {"score": float(score), "calls": made, "answer": float(right), "beside": float(len(beside))}

    def _judged(self, behaviour: str, messages: Calls) -> bool:
        if self.judge is None:
            raise ValueError(
                f"the task asks for a behaviour ({behaviour[:60]}) and there is no judge: give Matched one"
            )
        return self.judge(behaviour, messages)


def covert(
    policy: Any, *, env: Scenes | None = None, extra: int = 2, judge: Judge | None = None, **objective: Any
) -> Method:
    """env: tools and transforms by task; extra, judge: of `Matched`; objective: options of `grpo`."""
    method = grpo(policy, **{"beta": 0.0, **objective})
    method.on_group.insert(0, Rewards([Reward(Matched(extra, judge), name="matched")]))
    method.env = env
    return method
