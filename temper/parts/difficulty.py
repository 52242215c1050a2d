"""Prompts made easier where a group does worse than usual, and harder where it does better; then played again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from temper import streams
from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import CORE, REQUEST, REWARD, TASK, TRAJECTORY
from temper.models.render import renderer_of
from temper.parts.demonstrations import judged
from temper.parts.reroll import again
from temper.parts.rewards import rows_of
from temper.stage import Stage
from temper.tasks.task import Task

SHOWN = "\n(The answer is {answer}. Explain how to get there.)"
HINT = "\nHint: {hint}"


@dataclass
class Augment:
    """Difficulty-aware augmentation (DeepVideo-R1, arXiv 2506.07464), for text of one turn.

    Δ = mean reward of the last `window` groups − this group's. Δ > margin: of `shown` answers to the task with its
    reference answer the best one is cut to the share Δ, at least a word, and becomes a hint. Δ < −margin: every word of
    the prompt is dropped with probability `dropout`·|Δ|. The group is then played again on the new prompt, and judged.
    """

    policy: Any
    judges: Sequence[Stage] = ()
    window: int = 64
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    margin: float = 0.05
    shown: int = 2
    dropout: float = 0.3
    recent: list[float] = field(default_factory=list, repr=False)
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD, REQUEST)
    writes = ()
    uses = (*CORE, BEHAVIOUR)

    async def __call__(self, b: Batch) -> Batch:
        mean = float(b[REWARD].nanmean())
        gap = sum(self.recent) / len(self.recent) - mean if self.recent and mean == mean else 0.0
        if mean == mean:
            self.recent = [*self.recent, mean][-self.window :]
        self.metrics = {"difficulty/gap": gap}
        who = streams.key(self.seed, "augment", b[REQUEST][0])
        prompt = await self._prompt(b, gap, who) if abs(gap) > self.margin else None
        if prompt is None:
            return b
        made = await again(self.policy, b, self._ids(b[TASK][0], prompt), b.size(TRAJECTORY), self.sampling, who)
        return await judged(made, self.judges)

    async def _prompt(self, b: Batch, gap: float, who: int) -> str | None:
        """The new text of the last message; None where it cannot be changed."""
        task = b[TASK][0]
        text = str(task.messages[-1]["content"])
        if gap < 0:
            draw, rate = Random(who), self.dropout * min(-gap, 1.0)
            return " ".join(w for w in text.split(" ") if draw.random() >= rate) or None
        if task.answer is None:
            return None
        told = self._ids(task, text + SHOWN.format(answer=task.answer))
        seen = await judged(
            await again(self.policy, b, told, self.shown, self.sampling, streams.key(who, "shown")), self.judges
        )
        best = int(seen[REWARD].nan_to_num(nan=-math.inf).argmax())
        words = rows_of(seen)[best].completion.replace("<|im_end|>", "").split(" ")
        return text + HINT.format(hint=" ".join(words[: max(1, round(min(gap, 1.0) * len(words)))]))

    def _ids(self, task: Task, text: str) -> tuple[int, ...]:
        render = renderer_of(self.policy.tokenizer)
        messages = [*task.messages[:-1], {**task.messages[-1], "content": text}]
        return render.ids(render.text(messages), first=True)

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent = list(state["recent"])
