"""Thinking in chunks of bounded context: each starts afresh from the question and a few carried ids.

One trajectory goes over all chunks. Every chunk is a context of its own (parent −1) whose first turn, the question and
the carried ids, is the environment's, so nothing is trained on twice and attention never spans more than one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from temper.envs.tree import unfinished, whole_text
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.tasks.task import Task


@dataclass
class Chunked:
    """Delethink (The Markovian Thinker, arXiv 2510.06557). Judged by a rewards stage, by the text of the whole trace.

    chunk   C, most tokens of a chunk, with what is carried into it; the first is all new
    carry   m, tokens that are carried into every later chunk; head: of these, the first ones of the trace, the others
            are its last
    chunks  I, most chunks: a trace has at most C + (I − 1)(C − m) tokens
    """

    chunk: int = 8192
    carry: int = 4096
    head: int = 100
    chunks: int = 5
    role: str = "solver"

    def __post_init__(self) -> None:
        if not 0 <= self.head <= self.carry < self.chunk:
            raise UserError(
                f"chunks of {self.chunk} tokens carry fewer than that, and at least their head: "
                f"got carry {self.carry} and head {self.head}"
            )
        if self.chunks < 1:
            raise UserError(f"chunks must be at least 1, got {self.chunks}")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def longest(self) -> int:
        """Most tokens of a trace."""
        return self.chunk + (self.chunks - 1) * (self.chunk - self.carry)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles[self.role], Recorder(task)
        question, text = seat.chat(task.messages), str(task.messages[-1].get("content") or "")
        turns, said = [record.add(question, text=text)], list[Completion]()
        while True:
            said.append(await seat.sample(record.context(turns[-1]), max_tokens=self._most(len(said))))
            turns.append(record.sampled(said[-1], turns[-1], author=self.role))
            if said[-1].finish == "stop" or len(said) == self.chunks:
                break
            unfinished(record, turns[-1])
            turns.append(record.add((*question, *self.carried(tuple(i for s in said for i in s.ids)))))
        record.turns[-1] = replace(record.turns[-1], text=whole_text(said, seat.tokenizer))
        record.judge(turns, role=self.role, info={"chunks": len(said), "trace": sum(len(s.ids) for s in said)})
        return record.episode()

    def carried(self, trace: tuple[int, ...]) -> tuple[int, ...]:
        """What the next chunk begins with: the first `head` and the last `carry` − `head` ids of the trace so far."""
        if len(trace) <= self.carry:
            return trace
        return (*trace[: self.head], *trace[len(trace) - (self.carry - self.head) :])

    def _most(self, before: int) -> int:
        return self.chunk - self.carry if before else self.chunk
