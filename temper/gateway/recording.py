"""An episode behind a key: every call becomes turns, token by token as they were sampled.

A request continues an earlier call when it repeats that call's messages and the answer that the client was given, and
the template shows the past as the model saw it. Then only what comes after the answer is encoded, and appended to the
ids that were sampled; to the template the answer is its text as it was sampled, tool calls and all. Anything else
(another conversation, an edited history, a template that rewrites it) opens a fresh chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.envs.chat import behind, shown
from temper.episode import Completion, Recorder
from temper.gateway import asked as asked_
from temper.gateway.asked import Asked
from temper.gateway.errors import ApiError
from temper.gateway.render import Renderer
from temper.gateway.sessions import Heard, Prompt, checked, ids_of
from temper.policy import Seat

Messages = tuple[Mapping[str, Any], ...]


@dataclass
class Where:
    """A prompt's place in the record.

    added  ids behind `parent`; turn: their own, once there is one
    text   what a client knows of the context; of a chat, what the template rendered
    shown  the messages that it rendered
    """

    parent: int
    added: tuple[int, ...]
    text: str
    shown: Messages = ()
    turn: int | None = None


@dataclass(frozen=True)
class Call:
    """An answered call. turn: of the answer; length: tokens up to its end; message: as the client got it."""

    asked: Asked
    where: Where
    turn: int
    length: int
    said: Completion
    message: Mapping[str, Any] = field(default_factory=dict)


class Recording:
    """A session that writes to `record`.

    follow  sample as the client asks (temperature, top_p, top_k), instead of as the run does. Its max_tokens can only
            shorten an answer, its seed is not used: attempts must differ
    """

    model: str | None = None

    def __init__(self, seat: Seat, record: Recorder, render: Renderer, ends: tuple[int, ...], *, follow: bool = False):
        self.seat, self.record, self.render, self.follow = seat, record, render, follow
        self.ends = ends
        self.calls: list[Call] = []
        self.full = False  # a prompt did not fit into the context
        self._asked = 0

    @property
    def chains(self) -> int:
        """How many contexts were opened; all but the first are forks."""
        return sum(t.parent == -1 for t in self.record.turns)

    def prompt(self, asked: Asked) -> Prompt:
        try:
            where = self._continued(asked) or self._fresh(asked)
            ids = (*self.record.context(where.parent), *where.added)
            return checked(Prompt(ids, where), self.render.context)
        except ApiError as error:
            self.full = self.full or error.code == "context_length_exceeded"
            raise

    async def sample(self, prompt: Prompt, asked: Asked, n: int, heard: Heard | None = None) -> Completion:
        return await self.seat.sample(prompt.ids, **self._params(asked))

    def note(self, prompt: Prompt, asked: Asked, said: Completion, message: Mapping[str, Any]) -> None:
        where: Where = prompt.mark
        if where.turn is None:
            last = asked.messages[-1]["content"] if asked.chat else where.text
            where.turn = self.record.add(where.added, where.parent, text=last) if where.added else where.parent
        turn = self.record.sampled(said, where.turn, author=self.seat.role)
        kept = asked_.message(dict(message)) if asked.chat else {}
        self.calls.append(Call(asked, where, turn, len(prompt.ids) + len(said.ids), said, kept))

    def call_prefix(self) -> str:
        self._asked += 1
        return f"call_{self._asked}_"

    def _params(self, asked: Asked) -> dict[str, Any]:
        run, given = self.seat.params, dict(asked.params)
        given["max_tokens"] = min(run.max_tokens, given.get("max_tokens", run.max_tokens))
        given["stop"] = tuple(dict.fromkeys((*run.stop, *asked.stop)))
        return given if self.follow else {k: given[k] for k in ("max_tokens", "stop")}

    def _fresh(self, asked: Asked) -> Where:
        """A chain of its own."""
        if not asked.chat:
            return Where(-1, ids_of(asked, self.render), asked.prompt if isinstance(asked.prompt, str) else "")
        marked = tuple(self.render.marked(asked.messages))
        text = self.render.marked_text(marked, asked.tools)
        return Where(-1, self.render.ids(text), text, marked)

    def _continued(self, asked: Asked) -> Where | None:
        """Behind the call with the longest context that this one continues, the latest of several."""
        after = self._after_messages if asked.chat else self._after_text
        calls = sorted(self.calls, key=lambda c: (c.length, c.turn), reverse=True)
        places = (after(call, asked) for call in calls if call.asked.chat == asked.chat)
        return next((place for place in places if place is not None), None)

    def _after_messages(self, call: Call, asked: Asked) -> Where | None:
        before = (*call.asked.messages, dict(call.message))
        new = asked.messages[len(before) :]
        if asked.tools != call.asked.tools or asked.messages[: len(before)] != before or not new:
            return None  # with nothing new the client wants to go on inside an answer, which templates do not render
        answer = self.render.base.own(call.said.text, call.said.ids)
        messages = (*call.where.shown, {"role": "assistant", "content": answer}, *self.render.marked(new))
        try:
            text = self.render.marked_text(messages, asked.tools)
        except ApiError:  # a template that insists on calls in its own form
            return None
        past = shown(text, call.where.text, answer)
        if past is None:
            return None
        ids = self.render.ids(text[past:], first=False)
        end = call.said.ids[-1] if call.said.ids else -1
        ids = behind(ids, end, self.render.tokenizer) if end in self.ends else ids
        return Where(call.turn, ids, text, messages)

    def _after_text(self, call: Call, asked: Asked) -> Where | None:
        if not isinstance(asked.prompt, str):
            context = self.record.context(call.turn)
            same = asked.prompt[: len(context)] == context
            return Where(call.turn, asked.prompt[len(context) :], "") if same else None
        known = call.where.text + call.said.text
        if not isinstance(call.asked.prompt, str) or not asked.prompt.startswith(known):
            return None
        return Where(call.turn, self.render.plain(asked.prompt[len(known) :], first=False), asked.prompt)
