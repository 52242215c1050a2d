"""An answer that is tested and revised: each attempt is told how many of its tests pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.rewards.designs import pass_rate
from temper.tasks.task import Task

Check = Callable[[str, Task], float | None]


@dataclass
class Revisions:
    """Attempts until one passes every test or `turns` are used. Reward: what the last one passes (None: not judged).

    INFO has "rates", the share of tests that each attempt passes, None where testing did not end.

    check   (text, task) → that share; it runs in a thread
    failed  what a wrong attempt is told, with {rate}; hung: what one is told whose tests did not end
    """

    check: Check = pass_rate
    turns: int = 3
    failed: str = "{rate} of the tests pass. Try again."
    hung: str = "The tests did not end. Try again."
    role: str = "solver"
    writes = (REWARD,)

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise UserError(f"turns must be at least 1, got {self.turns}")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        chat, rates = Chat(roles[self.role], Recorder(task), turns=self.turns), list[float | None]()
        chat.start(task.messages)
        while (said := await chat.say()) is not None:
            text = said.text if said.finish == "stop" else ""
            rates.append(await asyncio.to_thread(self.check, text, task))
            if rates[-1] == 1 or not chat.observe([{"role": "user", "content": self.told(rates[-1])}]):
                break
        chat.judge(rates[-1] if rates else None, info={"rates": rates})
        return chat.record.episode()

    def told(self, rate: float | None) -> str:
        return self.hung if rate is None else self.failed.replace("{rate}", f"{rate:.0%}")
