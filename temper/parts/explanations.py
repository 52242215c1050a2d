"""The policy's own explanations of answers that it was shown, put behind the plain question as examples to imitate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from temper import streams
from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, REWARD, TASK
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.models.render import renderer_of
from temper.parts.demonstrations import judged, with_columns_of
from temper.parts.reroll import opening
from temper.stage import Stage
from temper.tasks.task import Task

HINT = "The right answer is {answer}. Explain step by step how to get there, and end with that answer."
Kept = dict[str, tuple[int, tuple[int, ...]]]  # task → (version of the weights, ids)


def hinted(task: Task, hint: str = HINT) -> list[dict[str, Any]]:
    """The task's messages, its answer told at the end of the last one."""
    *before, last = task.messages
    told = hint.replace("{answer}", str(task.answer))
    return [*before, {**last, "content": f"{last.get('content') or ''}\n\n{told}"}]


def tells(text: str, hint: str) -> bool:
    """Whether a piece of the hint (three words or more) occurs in the text: it speaks of having been told."""
    pieces = [p.strip(" .,") for part in hint.split("{answer}") for p in part.replace(",", ".").split(".")]
    return any(len(p.split()) >= 3 and p.lower() in text.lower() for p in pieces)


@dataclass
class SelfExplain:
    """One more trajectory in the group: what the policy said when it was told the answer, behind the plain question.

    It comes right after the rewards: columns that other stages wrote before it are not kept. Of `tries` explanations
    the first is taken that ended by itself, that the judges find right behind the plain question, that has at least
    `shortest` tokens beside the answer's own (no bare restatement), and that repeats nothing of the hint. Its tokens
    have no behaviour log-probs (those were of another prompt) and version −1; its reward stays absent. Without one, or
    where `when` is false, the group stays as it is.

    refresh  an explanation serves so many updates of the weights before another is asked for (0: always a fresh one)
    system, prefill  of the environment, as `temper.envs.single.SingleTurn` has them
    """

    policy: Any
    judges: Sequence[Stage]
    hint: str = HINT
    tries: int = 4
    shortest: int = 8
    right: float = 1.0
    refresh: int = 0
    when: Callable[[Batch], bool] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    system: str | None = None
    prefill: str = ""
    seed: int = 0
    reads = (TASK,)
    writes = ()
    uses = (*CORE, BEHAVIOUR, REWARD)

    def __post_init__(self) -> None:
        if not self.judges:
            raise UserError("explanations are judged before they are imitated: give the run's judges")
        if "{answer}" not in self.hint:
            raise UserError(f"the hint must say where the answer goes, by {{answer}}; got {self.hint!r}")
        self.kept: Kept = {}
        self._counts = [0, 0]  # groups that asked, groups that got one, since `metrics` was last looked at

    @property
    def metrics(self) -> dict[str, float]:
        (asked, got), self._counts = self._counts, [0, 0]
        return {"explanations/asked": float(asked), "explanations/found": got / asked} if asked else {}

    async def __call__(self, b: Batch) -> Batch:
        task = b[TASK][0]
        if task.answer is None or (self.when is not None and not self.when(b)):
            return b
        attempts = to_episodes(b)
        ids = self._remembered(task) or await self._asked(attempts[0])
        self._counts[0] += 1
        if ids is None:
            return b
        self._counts[1] += 1
        return with_columns_of(b, Batch.of([*attempts, self._behind(attempts[0], ids)]))

    def _remembered(self, task: Task) -> tuple[int, ...] | None:
        version, ids = self.kept.get(task.id, (0, ()))
        return ids if ids and self.policy.version - version < self.refresh else None

    async def _asked(self, attempt: Episode) -> tuple[int, ...] | None:
        """The ids of an explanation that holds."""
        task, who = attempt.task, streams.key(self.seed, "explanation", attempt.request)
        asked = [self.sampling.but(seed=streams.key(who, n)) for n in range(self.tries)]
        said = await asyncio.gather(*(self.policy.sampler.sample(self.prompt(task), params) for params in asked))
        verdicts = await judged(Batch.of([self._behind(attempt, c.ids) for c in said]), self.judges)
        right = (verdicts[REWARD] >= self.right).tolist()
        held = next((c.ids for c, ok in zip(said, right) if ok and self.explains(c, task)), None)
        if held is not None and self.refresh:
            self.kept[task.id] = (self.policy.version, held)
        return held

    def prompt(self, task: Task) -> tuple[int, ...]:
        render, system = renderer_of(self.policy.tokenizer), [{"role": "system", "content": self.system}]
        ids = render.ids(render.text([*(system if self.system else []), *hinted(task, self.hint)]), first=True)
        return (*ids, *self.policy.tokenizer.encode(self.prefill, add_special_tokens=False))

    def explains(self, said: Completion, task: Task) -> bool:
        answer = len(self.policy.tokenizer.encode(str(task.answer), add_special_tokens=False))
        return said.finish == "stop" and len(said.ids) - answer >= self.shortest and not tells(said.text, self.hint)

    def _behind(self, attempt: Episode, ids: Sequence[int]) -> Episode:
        """`ids` as an example, as another play of the same request: behind the attempts' own prompt."""
        record, role = Recorder(attempt.task), attempt.trajectories[0].role
        record.turns = list(attempt.turns[: opening(attempt)])
        mine = record.add(ids, len(record.turns) - 1, author=role, text=self.policy.tokenizer.decode(list(ids)))
        record.judge(range(mine + 1), role=role, info={"demonstration": True})
        return replace(record.episode(), request=attempt.request, split=attempt.split)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": {task: [version, list(ids)] for task, (version, ids) in self.kept.items()}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.kept = {task: (version, tuple(ids)) for task, (version, ids) in saved["kept"].items()}
