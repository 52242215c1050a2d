"""One prompt, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from temper.episode import Episode, Recorder
from temper.policy import Seat
from temper.tasks.task import Task


@dataclass
class SingleTurn:
    """The task's messages through the chat template, then one sample. Judged by a rewards stage.

    system   a system message put before the task's own messages (None: none)
    prefill  text that opens the assistant's turn; it belongs to the prompt, and is not trained on
    """

    role: str = "solver"
    system: str | None = None
    prefill: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles[self.role], Recorder(task)
        messages = ([{"role": "system", "content": self.system}] if self.system else []) + task.messages
        options = {"tools": list(task.info["tools"])} if task.info.get("tools") else {}
        ids = seat.chat(messages, **options)
        if self.prefill:
            ids += tuple(seat.tokenizer.encode(self.prefill, add_special_tokens=False))
        prompt = record.add(ids, text=str(messages[-1].get("content") or ""))
        answer = record.sampled(await seat.sample(ids), prompt, author=self.role)
        record.judge([prompt, answer], role=self.role)
        return record.episode()
