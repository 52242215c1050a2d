"""Workflows of several roles: every call is a context, a trajectory and a reward of its own.

    async def pair(task, desk):
        plan = await desk.ask("planner", f"Plan: {task.prompt}")
        code = await desk.ask("coder", f"{task.prompt}\\n{plan.text}")
        code.score = float(code.text == task.answer)

    Workflow(pair, allocate, roles=("planner", "coder"))

`allocate` turns the finished calls into rewards, one for each. Calls of one role in one turn are compared with one
another over a request's attempts (`Trajectory.group`). An attempt that raises Drop leaves nothing behind. A role that
is shown more than its context holds says nothing: what others wrote is no reason to drop what they are judged by.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task


@dataclass
class Call:
    """One answer of a role. text: of the answer after its reasoning; turn: of the workflow, from 0.

    score  how good the state of the work is after it, where the script measures that (a pass rate, an F1)
    legal  whether it has the form that was asked for
    note   what an allocator needs to know beside that ("end": a search that ends the work)
    """

    role: str
    turn: int
    text: str
    chat: Chat = field(repr=False)
    score: float | None = None
    legal: bool = True
    note: str = ""


Script = Callable[[Task, "Desk"], Awaitable[None]]
Allocator = Callable[[Sequence[Call]], Sequence[float | None]]  # each call's reward for the task; None: not judged


class Desk:
    """Where a script asks. `calls` are in the order of asking; `turn` is that of the next ones."""

    def __init__(self, roles: Mapping[str, Seat], record: Recorder):
        self.roles, self.record = roles, record
        self.calls: list[Call] = []
        self.turn = 0

    async def ask(self, role: str, prompt: str, legal: Callable[[str], bool] = bool) -> Call:
        """The role's answer to `prompt`, in a fresh context. `legal` judges the form of what follows the reasoning.

        Where the prompt leaves no room the answer is empty, not legal, and no trajectory.
        """
        chat = Chat(self.roles[role], self.record, turns=1)
        said = await chat.say() if chat.start([{"role": "user", "content": prompt}]) else None
        if said is None and not any(c.chat.said for c in self.calls):
            raise Drop("prompt too long")
        text = said.text.rpartition("</think>")[2].strip() if said else ""
        formed = said is not None and said.finish == "stop" and legal(text)
        self.calls.append(Call(role, self.turn, text, chat, legal=formed))
        return self.calls[-1]


@dataclass
class Workflow:
    """Plays `script`, then gives every call its reward: what `allocate` says, less `format_weight` for a wrong form.

    roles          that the script asks
    format_weight  w of the format term w·f, f = 0 or −1

    In the info of every trajectory: the workflow's `final` score (of the last call that has one) and its `turns`.
    """

    script: Script
    allocate: Allocator
    roles: tuple[str, ...] = ("planner", "coder")
    format_weight: float = 1.0
    writes = (REWARD, REWARD.of("task"), REWARD.of("format"))

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        desk = Desk(roles, Recorder(task))
        await self.script(task, desk)
        rewards = self.allocate(desk.calls)
        if len(rewards) != len(desk.calls):
            raise UserError(f"the allocator gave {len(rewards)} rewards for {len(desk.calls)} calls: one for each")
        scores = [c.score for c in desk.calls if c.score is not None]
        info = {"final": scores[-1] if scores else 0.0, "turns": desk.turn + 1}
        for call, reward in zip(desk.calls, rewards):
            if not call.chat.said:
                continue
            form = 0.0 if call.legal else -1.0
            fields: dict[str, Any] = {"info": info, "group": f"turn {call.turn}" if call.turn else ""}
            if reward is not None:
                fields["rewards"] = {"task": reward, "format": form}
            call.chat.judge(None if reward is None else reward + self.format_weight * form, **fields)
        return desk.record.episode()
