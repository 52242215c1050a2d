"""SimpleTIR

Paper: Xue et al., "SimpleTIR: End-to-End Reinforcement Learning for Multi-Turn Tool-Integrated Reasoning", 2025,
arXiv 2509.02479.
Hook: gate (an episode with a void turn, neither complete code nor an answer in a box, has no loss), rollout (groups
that tell nothing are replaced), loss (clip-higher with dual clip, token mean).
Claim: Qwen2.5-7B from 22.1 to 50.5 on AIME 2024 without a cold start; without the filter the gradient norm spikes.
Left out: sampling three times the prompts of a batch and choosing among those that count at random (here more are asked
for until enough count, which draws from the same tasks). As in the code, void episodes stay in the group's mean
and σ, and over-long ones leave both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from temper.carrier import Batch
from temper.columns import REWARD
from temper.method import Method
from temper.objective import Term, token_mean
from temper.parts.advantages import Advantage
from temper.parts.losses import Clip
from temper.parts.selection import KEPT, NOT_VOID, NotOverlong, NotVoid
from temper.rewards.checkers import exact_match
from temper.tools.base import Result, Tool, cut

SLUG = "simpletir"
TITLE = "SimpleTIR"
PAPER = "arXiv 2509.02479"
FAMILY = "environments"
HOOKS = ("rollout", "gate", "loss")
RECIPE = "simpletir"
BOX = "\\boxed{"
HELPER = 'def final_answer(result):\n    print("\\\\boxed{" + str(result) + "}")\n\n'


@dataclass(frozen=True)
class Informative:
    """Does a group count: σ of its rewards ≥ `least_std`, their mean in [low, high], enough rows that are not overlong.

    In this order and over all judged rows, as in the code; `usable` rows have a KEPT reward.
    """

    least_std: float = 1e-3
    low: float = 0.1
    high: float = 0.9
    usable: int = 2
    reads = (REWARD, KEPT)

    def __call__(self, b: Batch) -> bool:
        r = b[REWARD][~b[REWARD].isnan()]
        if len(r) < 2 or float(r.std()) < self.least_std or not self.low <= float(r.mean()) <= self.high:
            return False
        return int((~b[KEPT].isnan()).sum()) >= self.usable


class Interpreter:
    """A Python tool that knows `final_answer(x)`; says "Code execution result: …" and an error in its last line."""

    def __init__(self, tool: Tool, limit: int = 512):
        self.tool, self.limit = tool, limit
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters
        self.cacheable = getattr(tool, "cacheable", True)
        self.own_deadline = getattr(tool, "own_deadline", False)

    async def __call__(self, code: str) -> Result:
        result = await self.tool(code=HELPER + code)
        text = result.text if result.outcome == "ok" else (result.text.splitlines() or [""])[-1]
        return Result(f"Code execution result: {cut(text, self.limit)}", result.outcome)

    def fresh(self) -> Interpreter:
        fresh = getattr(self.tool, "fresh", lambda: self.tool)()
        return self if fresh is self.tool else Interpreter(fresh, self.limit)

    def close(self) -> Any:
        return self.tool.close() if hasattr(self.tool, "close") else None


def has_box(text: str) -> bool:
    """Whether there is a final answer in it."""
    return BOX in text


def boxed_answer(completion: str, answer: Any, calls: Sequence[dict[str, Any]] = ()) -> float | None:
    """1.0 when the box that ended the episode, the policy's own or one that its code printed, holds the answer."""
    said = next((t for t in (completion, *(c["text"] for c in calls[-1:])) if has_box(t)), None)
    return 0.0 if said is None else exact_match(said, answer)


def simpletir(
    policy: Any,
    *,
    mask_void: bool = True,
    tokens: int = 0,
    low: float = 0.1,
    high: float = 0.9,
    usable: int = 2,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual: float = 3.0,
) -> Method:
    """For `ToolUse(final=has_box)`. tokens: an episode of so many is over-long (0: none); the rest: `Informative`."""
    return Method(
        on_group=[NotOverlong(limit=tokens), Advantage(reward=KEPT), *([NotVoid()] if mask_void else [])],
        terms=[Term("policy", Clip(clip_low, clip_high, dual), per=token_mean, where=NOT_VOID if mask_void else None)],
        signal=Informative(low=low, high=high, usable=usable),
    )
