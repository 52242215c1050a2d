"""Search where somebody plays the search engine: a policy or rules, who know the answer, and are noisy at times."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from temper import streams
from temper.envs.chat import Chat
from temper.envs.search import Calls, information, references, tagged
from temper.episode import Episode, Recorder
from temper.models.render import renderer_of
from temper.parts.schedules import Constant, Schedule
from temper.policy import Seat
from temper.rewards.qa import best
from temper.tasks.task import Task


class Asked(NamedTuple):
    """What a simulator is asked: like the original's, it knows the answer."""

    query: str
    question: str
    answer: str
    noisy: bool


Simulator = Callable[[Asked, np.random.Generator], str]
SIMULATE = (
    "You are a search engine. Write {top} {kind} documents for the query, about 30 words each.\n"
    'The user wants to answer the question "{question}", and the answer is {answer}.\n\nQuery: {query}\n{kind} output:'
)


@dataclass
class SimulatedSearch:
    """Search (at most `turns` times) and answer, where documents are useful or noisy, by a draw for each search.

    Judged by a rewards stage (`temper.rewards.qa.AnswerReward`) from what it notes: said, the last answer. An action
    that is none gets `correction`, and goes on.

    simulator  a function of what is asked and its own random stream; None: the policy in the seat "simulator"
    noise      P(noisy) by how often the policy was trained (Policy.version); a task's info["noise"] comes first
    longest    most tokens of a call's input and answer (0: the model's limit)
    prompt     {question} is filled in; correction: what an action that is none gets back
    """

    simulator: Simulator | None = None
    noise: Schedule = field(default_factory=lambda: Constant(0.0))
    turns: int = 5
    top: int = 5
    longest: int = 0
    prompt: str = "{question}"
    correction: str = "Try again."
    role: str = "solver"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,) if self.simulator else (self.role, "simulator")

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat = roles[self.role]
        render, calls = renderer_of(seat.tokenizer), Calls(seat, Recorder(task), self.longest)
        noise = float(task.info.get("noise", self.noise(seat.policy.version)))
        question = str(task.messages[-1]["content"])
        prompt = {"role": "user", "content": self.prompt.format(question=question)}
        ids = seat.chat([*task.messages[:-1], prompt])
        draws, leaks, wrong = list[bool](), list[bool](), 0
        while (said := await calls(ids, stop=("</search>", "</answer>"))) is not None:
            found = re.search(r"<(search|answer)>(.*?)</\1>", said.text, re.DOTALL)
            if (found and found[1] == "answer") or calls.over(said) or len(calls.texts) > self.turns:
                break
            ids += said.ids
            if found is None:
                wrong += 1
                ids += render.ids(f"\n{self.correction}\n")
                continue
            rng = stream(seat, "search", len(calls.texts))
            draws.append(bool(rng.random() < noise))
            asked = Asked(found[2].strip(), question, references(task)[0], draws[-1])
            text = await self._simulated(asked, rng, roles, calls.record)
            leaks.append(best(_holds, text, references(task)) > 0)
            ids += information(render, text, "\n")
        return self._judged(calls, noise, draws, leaks, wrong)

    def _simulated(
        self, asked: Asked, rng: np.random.Generator, roles: Mapping[str, Seat], record: Recorder
    ) -> Awaitable[str]:
        return _told(self.simulator(asked, rng)) if self.simulator else self._written(asked, roles["simulator"], record)

    async def _written(self, asked: Asked, seat: Seat, record: Recorder) -> str:
        """By the policy in the simulator's seat; no trajectory holds its turns, so nothing of them is trained on."""
        chat = Chat(seat, record)
        kind = "noisy" if asked.noisy else "useful"
        prompt = SIMULATE.format(top=self.top, kind=kind, **asked._asdict())
        chat.start([{"role": "user", "content": prompt}])
        said = await chat.say()
        return "" if said is None else said.text.replace("\n\n", "\n").split(f"Doc {self.top + 1}")[0].strip()

    def _judged(self, calls: Calls, noise: float, draws: Sequence[bool], leaks: Sequence[bool], wrong: int) -> Episode:
        answers = [a for text in calls.texts for a in tagged(text, "answer")]
        info = {"said": answers[-1] if answers else "", "turns": len(calls.texts), "searches": len(draws)}
        info |= {"invalid": wrong, "noise": noise}
        if draws:
            info |= {"noisy": sum(draws) / len(draws), "leaked": sum(leaks) / len(leaks)}
        calls.record.judge(calls.members, role=self.role, info=info)
        return calls.record.episode()


async def _told(text: str) -> str:
    return text


def _holds(text: str, reference: str) -> float:
    return float(reference.casefold() in text.casefold())


def stream(seat: Seat, *who: object) -> np.random.Generator:
    """Random numbers of a seat's play beside its samples: a function of (seed, play, role, who)."""
    return streams.generator(seat._seed, *seat._who, seat.role, *who)
