"""A doctor asks a patient, one question a turn, and gives a diagnosis before the turns are spent.

The patient is a script that knows the case, or a policy in a seat of its own (frozen, or trained too). Every turn of
the doctor has a reward (TURN_REWARD); the episode's is their sum (`temper.parts.turns.SumOfTurns`).
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper import streams
from temper.columns import TURN_REWARD, Column
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.tasks.task import Task

UNKNOWN = "Sorry, I do not know."
PATIENT = (
    "You are a patient who talks to a doctor. Answer the question in one sentence, and name no diagnosis. If what you "
    "report does not answer it, say: {unknown}\n\nYou report: {case}\n\n{question}"
)
SAID = {
    "form": "Your format is invalid.",
    "several": "Ask one question at a time.",
    "repeated": "You have asked that before.",
}


@dataclass(frozen=True)
class Reply:
    """What a patient says; known: whether it answers the question."""

    text: str
    known: bool = True


Patient = Callable[[Task, str], Reply]
Rubric = Callable[[Task, str, str], "tuple[float, float] | Awaitable[tuple[float, float]]"]


@dataclass(frozen=True)
class Prices:
    """Rewards of the doctor's turns, as released."""

    informative: float = 1.0
    unknown: float = -1.0
    repeated: float = -2.0
    several: float = -2.0
    form: float = -2.0
    spent: float = -5.0


def tagged(text: str) -> str | None:
    """What stands between the only pair of answer tags, behind reasoning and with nothing after it; None: malformed."""
    found = re.fullmatch(r"\s*<think>.*?</think>\s*<answer>(.*?)</answer>\s*", text, re.DOTALL)
    return found[1].strip() if found and text.count("<answer>") == text.count("</answer>") == 1 else None


def plain(text: str) -> str | None:
    """The text after any reasoning; None where that is empty."""
    return text.rpartition("</think>")[2].strip() or None


def same_words(question: str, earlier: Sequence[str]) -> bool:
    """Whether the question was asked before in the same words, up to case and punctuation."""
    return words(question) in [words(q) for q in earlier]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def overlap(task: Task, diagnosis: str, recommendation: str) -> tuple[float, float]:
    """Each from 0 to 5: five times the F1 of its words with the task's, rounded."""
    return (_graded(diagnosis, task.info["diagnosis"]), _graded(recommendation, task.info["recommendation"]))


def _graded(said: str, reference: str) -> float:
    a, b = Counter(words(said)), Counter(words(reference))
    shared = sum((a & b).values())
    return float(round(5 * 2 * shared / (sum(a.values()) + sum(b.values())))) if shared else 0.0


def grade(text: str) -> float:
    """A judge model's grade: one whole number from 0 to 5 in its answer tags, or alone.

    0 when there is none: what makes a judge fall silent must not be worth more than a bad grade.
    """
    inside = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL) or [text]
    found = re.fullmatch(r"\s*([0-5])(?:\s*/\s*5)?\s*", inside[-1])
    return float(found[1]) if found else 0.0


@dataclass
class Consultation:
    """One case. Its text begins the talk; info has what patient and rubric need ("case", "diagnosis", …).

    patient   answers by the case; None: a policy does, in the role "patient"
    rubric    (task, diagnosis, recommendation) → two scores from 0 to 5; may be a coroutine that asks a judge model
    budget    fewest and most turns: drawn for each task, and shown with every observation
    parse     the doctor's text → its action; None: malformed
    same      (question, earlier ones) → whether it is asked again
    reminder  what every observation ends with, behind "Turn 2/5."
    faithful  (task, question, answer) → reward of a policy's answer as the patient (None: it is not judged)
    seed      of the budgets

    A turn with "Diagnosis: … Recommendation: …" ends the talk; the last turn without one costs `prices.spent` and ends
    it too, whatever it says. Turns of any kind count. In the info: how often each price was paid, `turns`, `budget`,
    `diagnosis` and `recommendation` (scores).
    """

    patient: Patient | None = None
    rubric: Rubric = overlap
    budget: tuple[int, int] = (2, 10)
    parse: Callable[[str], str | None] = tagged
    same: Callable[[str, Sequence[str]], bool] = same_words
    prices: Prices = field(default_factory=Prices)
    reminder: str = "Give a diagnosis and a recommendation before the end."
    faithful: Callable[[Task, str, str], float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.budget[0] <= self.budget[1]:
            raise UserError(f"a budget is (fewest, most) turns, from 1 on, got {self.budget}")

    writes: tuple[Column, ...] = field(default=(TURN_REWARD,), init=False, repr=False)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("doctor",) if self.patient else ("doctor", "patient")

    async def play(self, task: Task, roles: Any) -> Episode:
        talk = _Talk(self, task, roles)
        budget = budget_of(self.budget, task, self.seed)
        talk.doctor.start(opened(task.messages, budget, self.reminder))
        while (said := await talk.doctor.say()) is not None:
            last = talk.doctor.said >= budget
            kind, reward, reply = await talk.turn(self.parse(said.text), last)
            talk.paid[kind] += 1
            talk.record.score(talk.doctor.members[-1], reward)
            if kind in ("diagnosed", "spent"):
                break
            seen = shown(reply, talk.doctor.said, budget, self.reminder)
            if not talk.doctor.observe([{"role": "user", "content": seen}]):
                break
        return talk.judged(budget)


class _Talk:
    """The state of one consultation."""

    def __init__(self, env: Consultation, task: Task, roles: dict[str, Seat]):
        self.env, self.task, self.record = env, task, Recorder(task)
        self.doctor = Chat(roles["doctor"], self.record)
        self.patient = None if env.patient else Chat(roles["patient"], self.record)
        self.asked: list[str] = []
        self.paid: Counter[str] = Counter()
        self.scores = (0.0, 0.0)

    async def turn(self, action: str | None, last: bool) -> tuple[str, float, str]:
        """(kind, reward, what the doctor is told) of one turn."""
        p = self.env.prices
        if action is not None and "Diagnosis:" in action:
            return "diagnosed", await self._diagnosed(action), ""
        if last:
            return "spent", p.spent, ""
        if action is None:
            return "form", p.form, SAID["form"]
        if action.count("?") + action.count("\N{FULLWIDTH QUESTION MARK}") != 1:
            return "several", p.several, SAID["several"]
        if self.env.same(action, self.asked):
            return "repeated", p.repeated, SAID["repeated"]
        self.asked.append(action)
        reply = await self._replied(action)
        if reply is None:
            return "form", p.form, SAID["form"]
        return ("informative", p.informative, reply.text) if reply.known else ("unknown", p.unknown, UNKNOWN)

    async def _replied(self, question: str) -> Reply | None:
        """None: the question is longer than the patient's context holds."""
        if self.patient is None:
            assert self.env.patient is not None
            return self.env.patient(self.task, question)
        prompt = PATIENT.format(unknown=UNKNOWN, case=self.task.info.get("case", ""), question=question)
        said = await self.patient.say() if self.patient.start([{"role": "user", "content": prompt}]) else None
        if said is None:
            return None
        text = said.text.rpartition("</think>")[2].strip()
        if self.env.faithful is not None:
            self.record.score(self.patient.members[-1], self.env.faithful(self.task, question, text))
        return Reply(text, not text.startswith("Sorry"))

    async def _diagnosed(self, action: str) -> float:
        found = re.search(r"Diagnosis:(.*?)(?:Recommendation:(.*))?$", action, re.DOTALL)
        assert found is not None
        scores = self.env.rubric(self.task, found[1].strip(), (found[2] or "").strip())
        self.scores = await scores if inspect.isawaitable(scores) else scores
        return float(sum(self.scores))

    def judged(self, budget: int) -> Episode:
        info = {k: self.paid[k] for k in ("informative", "unknown", "repeated", "several", "form", "spent")}
        scores = dict(zip(("diagnosis", "recommendation"), self.scores))
        self.doctor.judge(info={**info, "budget": budget, **scores})
        if self.patient is not None and self.patient.said:
            self.patient.judge()
        return self.record.episode()


def budget_of(budget: tuple[int, int], task: Task, seed: int = 0) -> int:
    """Turns for a task, drawn evenly from fewest to most: attempts at one task have the same."""
    return int(streams.generator(seed, "budget", task.id).integers(budget[0], budget[1] + 1))


def opened(messages: list[dict[str, Any]], budget: int, reminder: str = "") -> list[dict[str, Any]]:
    """The task's messages, the last one with the turns that there are."""
    return [*messages[:-1], {**messages[-1], "content": shown(str(messages[-1]["content"]), 0, budget, reminder)}]


def shown(reply: str, turn: int, budget: int, reminder: str = "") -> str:
    """What the doctor sees: the reply, and how many turns are spent."""
    return f"{reply}\nTurn {turn}/{budget}. {reminder}".rstrip()
