"""Two sides talk: a policy with another policy (a user simulator, a patient), or with a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.columns import REWARD, Column
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.policy import Seat
from temper.tasks.task import Task

Line = tuple[str, str]  # (role, what it said)
Script = Callable[[Task, Sequence[Line]], str | None]  # the partner's next line; None: the talk is over
Scores = Callable[[Task, Sequence[Line]], Mapping[str, float]]  # each role's reward


def persona(task: Task) -> str:
    """What the partner's policy is told: the task's info["persona"]."""
    return str(task.info.get("persona") or "You are the user. Answer in one sentence.")


def over(text: str) -> bool:
    """A line that ends the talk: one that says nothing, or [END]."""
    return not text.strip() or "[END]" in text


@dataclass
class Talk:
    """The solver answers the task's messages, the partner replies, and so on; one trajectory for each side.

    turns    most lines of each side; tokens: most that each side samples in all (0: no limit)
    script   the partner's lines; None: a policy speaks for it, in a seat of its own
    persona  what the partner's policy is told about the task
    done     a line that ends the talk, whoever says it
    scores   rewards by role (None: judged by a rewards stage)
    """

    turns: int = 3
    tokens: int = 0
    script: Script | None = None
    persona: Callable[[Task], str] = persona
    done: Callable[[str], bool] = over
    scores: Scores | None = None
    solver: str = "solver"
    partner: str = "partner"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.solver,) if self.script else (self.solver, self.partner)

    @property
    def writes(self) -> tuple[Column, ...]:
        return (REWARD,) if self.scores else ()

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record, lines = Recorder(task), list[Line]()
        solver = Chat(roles[self.solver], record, turns=self.turns, tokens=self.tokens)
        solver.start(task.messages)
        reply: _Policy | _Script = _Script(self.script) if self.script else _Policy(self, roles[self.partner], record)
        while (said := await solver.say()) is not None:
            lines.append((self.solver, said.text))
            if self.done(said.text) or not solver.may_go_on():
                break
            heard = await reply(task, lines)
            if heard is None:
                break
            lines.append((self.partner, heard))
            if self.done(heard) or not solver.observe([{"role": "user", "content": heard}]):
                break
        rewards = self.scores(task, lines) if self.scores else {}
        for chat in [solver, *reply.chats]:
            chat.judge(rewards.get(chat.seat.role), info={"lines": len(lines)})
        return record.episode()


class _Script:
    """A partner that is a function."""

    chats: tuple[Chat, ...] = ()

    def __init__(self, script: Script):
        self.script = script

    async def __call__(self, task: Task, lines: Sequence[Line]) -> str | None:
        return self.script(task, lines)


class _Policy:
    """A partner that is a policy: to it, the other side is the user."""

    def __init__(self, talk: Talk, seat: Seat, record: Recorder):
        self.persona = talk.persona
        self.chat = Chat(seat, record, turns=talk.turns, tokens=talk.tokens)

    @property
    def chats(self) -> tuple[Chat, ...]:
        return (self.chat,) if self.chat.said else ()

    async def __call__(self, task: Task, lines: Sequence[Line]) -> str | None:
        heard: dict[str, Any] = {"role": "user", "content": lines[-1][1]}
        if self.chat.said:
            if not self.chat.observe([heard]):
                return None
        else:
            self.chat.start([{**heard, "content": f"{self.persona(task)}\n\n{heard['content']}"}])
        said = await self.chat.say()
        return None if said is None else said.text
