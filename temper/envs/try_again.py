"""Attempt after attempt at one question, with one fixed sentence as feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.rewards.checkers import exact_match, final_part, normal
from temper.tasks.task import Task


def final_answer(said: Completion) -> str | None:
    """The final part of a turn, None where it is empty or was cut off."""
    return (final_part(said.text) or None) if said.finish == "stop" else None


def matches(answer: str, task: Task) -> bool:
    """Whether it is the task's answer (see `exact_match`)."""
    return exact_match(answer, task.answer) == 1.0


@dataclass
class TryAgain:
    """A wrong answer is answered with `feedback`, nothing else, until one is right or `turns` are used.

    Reward: gamma^k for a right answer at turn k = 0, 1, …; −violation for every turn without an answer (it counts as a
    turn, and gets the same feedback); −repetition·(1 − E/T) at the end, E of the T answers being distinct (white space,
    case and a full stop aside; no answer: nothing). UFO (arXiv 2507.14295).

    tokens  most that the policy samples in all (0: no limit); longest: context
    answer  what a turn answers, None where it breaks the format; right: whether that is right
    """

    turns: int = 5
    gamma: float = 0.5
    violation: float = 0.1
    repetition: float = 0.5
    feedback: str = "That is not right. Try again."
    tokens: int = 0
    longest: int = 0
    answer: Callable[[Completion], str | None] = final_answer
    right: Callable[[str, Task], bool] = matches
    role: str = "solver"
    writes = (REWARD, *(REWARD.of(part) for part in ("success", "format", "repetition")))

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise UserError(f"turns must be at least 1, got {self.turns}")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        chat = Chat(roles[self.role], Recorder(task), turns=self.turns, tokens=self.tokens, longest=self.longest)
        chat.start(task.messages)
        given, found = list[str](), False
        while (said := await chat.say()) is not None:
            answer = self.answer(said)
            given += [] if answer is None else ["".join(normal(answer).split())]
            found = answer is not None and self.right(answer, task)
            if found or not chat.observe([{"role": "user", "content": self.feedback}]):
                break
        parts = self.parts(chat.said, given, found)
        distinct = {"distinct": len(set(given)) / len(given)} if given else {}
        info = {"success": float(found), "invalid": chat.said - len(given), **distinct}
        chat.judge(sum(parts.values()), rewards=parts, info=info)
        return chat.record.episode()

    def parts(self, turns: int, given: list[str], found: bool) -> dict[str, float]:
        """The reward of an episode of so many turns with these answers, of which the last may have been right."""
        distinct = len(set(given)) / len(given) if given else 1.0
        return {
            "success": self.gamma ** (turns - 1) if found else 0.0,
            "format": -self.violation * (turns - len(given)),
            "repetition": -self.repetition * (1 - distinct),
        }
