"""Nothing is sampled: the episode is a demonstration, and the loop becomes supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.episode import ENV, Episode, Recorder
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

Spans = Sequence[tuple[str, Sequence[int]]]  # (author, ids): ENV, or a role whose tokens are to be learned


@dataclass
class Demonstrations:
    """Replays `spans(task, tokenizer)` as turns; what the role wrote becomes TOKEN rows without behaviour log-probs.

    longest  demonstrations of more tokens are dropped, and counted (0: no limit)
    """

    spans: Callable[[Task, Any], Spans]
    role: str = "solver"
    longest: int = 0
    samples = False

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record, turns = Recorder(task), []
        spans = self.spans(task, roles[self.role].tokenizer)
        if self.longest and sum(len(ids) for _, ids in spans) > self.longest:
            raise Drop("demonstration too long")
        for author, ids in spans:
            turns.append(record.add(ids, turns[-1] if turns else -1, author=ENV if author == ENV else self.role))
        record.judge(turns, role=self.role)
        return record.episode()


def chat_spans(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, role: str = "solver"
) -> list[tuple[str, list[int]]]:
    """A conversation as spans, by the tokenizer's own template: assistant turns (with their end token) are the role's.

    The template is rendered on growing prefixes of the messages, so each span is exactly what it added. ValueError
    when the template rewrites what came before, and the spans would not add up to the conversation.
    """
    spans: list[tuple[str, list[int]]] = []
    done: list[int] = []
    for n, message in enumerate(messages, start=1):
        if message["role"] == "assistant":
            opened = _render(tokenizer, messages[: n - 1], True)
            closed = _render(tokenizer, messages[:n], False)
            _extend(spans, done, opened, ENV)
            _extend(spans, done, closed, role)
    return spans


def _render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], opening: bool) -> list[int]:
    if not messages and not opening:
        return []
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=opening, tokenize=True, return_dict=False
    )
    return ids


def _extend(spans: list[tuple[str, list[int]]], done: list[int], whole: list[int], author: str) -> None:
    if whole[: len(done)] != done:
        raise ValueError("the chat template rewrites earlier messages: this conversation has no exact spans")
    if len(whole) > len(done):
        spans.append((author, whole[len(done) :]))
        done[:] = whole
