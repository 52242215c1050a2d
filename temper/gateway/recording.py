"""An episode behind a key: every call becomes turns, token by token as they were sampled.

A request continues an earlier call when it repeats that call's messages and the answer that the client was given, and
the template shows them unchanged. Then only what comes after the answer is encoded, and appended to the ids that were
sampled. Anything else (another conversation, an edited history, a template that rewrites it) opens a fresh chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.episode import Completion, Recorder
from temper.gateway import asked as asked_
from temper.gateway.asked import Asked
from temper.gateway.errors import ApiError
from temper.gateway.render import Renderer
from temper.gateway.sessions import Heard, Prompt, checked, ids_of
from temper.policy import Seat


@dataclass
class Where:
    """A prompt's place in the record. turn: its own, once there is one; shown: the text of it that a client knows."""

    parent: int
    added: tuple[int, ...]
    shown: str
    turn: int | None = None


@dataclass(frozen=True)
class Call:
    """An answered call. turn: of the answer; text: what the template rendered, or the whole text of a completion."""

    asked: Asked
    turn: int
    text: str
    message: Mapping[str, Any] = field(default_factory=dict)
    ended: bool = False  # by a token that ends a turn


class Recording:
    """A session that writes to `record`.

    follow  sample as the client asks (temperature, top_p, top_k), instead of as the run does. Its max_tokens can only
            shorten an answer, its seed is not used: attempts must differ
    """

    model: str | None = None

    def __init__(self, seat: Seat, record: Recorder, render: Renderer, ends: tuple[int, ...], *, follow: bool = False):
        self.seat, self.record, self.render, self.follow = seat, record, render, follow
        self.ends = ends
        self.words = [seat.tokenizer.convert_ids_to_tokens(i) for i in ends]
        self.calls: list[Call] = []
        self.full = False  # a prompt did not fit into the context
        self._asked = 0

    @property
    def chains(self) -> int:
        """How many contexts were opened; all but the first are forks."""
        return sum(t.parent == -1 for t in self.record.turns)

    def prompt(self, asked: Asked) -> Prompt:
        try:
            earlier, added = self._continued(asked)
            ids = ids_of(asked, self.render) if earlier is None else added
            parent = -1 if earlier is None else earlier.turn
            whole = (*self.record.context(parent), *ids)
            return checked(Prompt(whole, Where(parent, ids, self._shown(asked))), self.render.context)
        except ApiError as error:
            self.full = self.full or error.code == "context_length_exceeded"
            raise

    async def sample(self, prompt: Prompt, asked: Asked, n: int, heard: Heard | None = None) -> Completion:
        return await self.seat.sample(prompt.ids, **self._params(asked))

    def note(self, prompt: Prompt, asked: Asked, said: Completion, message: Mapping[str, Any]) -> None:
        where: Where = prompt.mark
        if where.turn is None:
            last = asked.messages[-1]["content"] if asked.chat else where.shown
            parent = where.parent
            where.turn = self.record.add(where.added, parent, text=last) if where.added else parent
        turn = self.record.sampled(said, where.turn, author=self.seat.role)
        ended = bool(said.ids) and said.ids[-1] in self.ends
        text = where.shown if asked.chat else where.shown + said.text
        kept = asked_.message(dict(message)) if asked.chat else {}
        self.calls.append(Call(asked, turn, text, kept, ended))

    def call_prefix(self) -> str:
        self._asked += 1
        return f"call_{self._asked}_"

    def _params(self, asked: Asked) -> dict[str, Any]:
        run, given = self.seat.params, dict(asked.params)
        given["max_tokens"] = min(run.max_tokens, given.get("max_tokens", run.max_tokens))
        given["stop"] = tuple(dict.fromkeys((*run.stop, *asked.stop)))
        return given if self.follow else {k: given[k] for k in ("max_tokens", "stop")}

    def _shown(self, asked: Asked) -> str:
        if asked.chat:
            return self.render.text(asked.messages, asked.tools)
        return asked.prompt if isinstance(asked.prompt, str) else ""

    def _continued(self, asked: Asked) -> tuple[Call | None, tuple[int, ...]]:
        """The call with the longest context that this one continues (the latest of several), and the ids it adds."""
        found: tuple[Call | None, tuple[int, ...]] = (None, ())
        longest = -1
        for call in reversed(self.calls):
            length = len(self.record.context(call.turn))
            if length <= longest or call.asked.chat != asked.chat:
                continue
            added = self._after_messages(call, asked) if asked.chat else self._after_text(call, asked)
            if added is not None:
                found, longest = (call, added), length
        return found

    def _after_messages(self, call: Call, asked: Asked) -> tuple[int, ...] | None:
        before = (*call.asked.messages, dict(call.message))
        if asked.tools != call.asked.tools or asked.messages[: len(before)] != before:
            return None
        if len(asked.messages) == len(before):
            return None  # the client wants to go on in the middle of an answer, which templates do not render
        closed = self.render.text(before, asked.tools, opening=False)
        now = self.render.text(asked.messages, asked.tools)
        if not closed.startswith(call.text) or not now.startswith(closed):
            return None
        return self.render.ids(self._tail(closed[len(call.text) :], call.ended) + now[len(closed) :], first=False)

    def _tail(self, answer: str, ended: bool) -> str:
        """What the template writes after an answer, without the end token where it was sampled."""
        places = [(answer.rfind(w), w) for w in self.words if w in answer]
        if not places:
            return ""
        at, word = max(places)
        return answer[at + len(word) if ended else at :]

    def _after_text(self, call: Call, asked: Asked) -> tuple[int, ...] | None:
        if not isinstance(asked.prompt, str):
            context = self.record.context(call.turn)
            return asked.prompt[len(context) :] if asked.prompt[: len(context)] == context else None
        if not isinstance(call.asked.prompt, str) or not asked.prompt.startswith(call.text):
            return None
        return self.render.plain(asked.prompt[len(call.text) :], first=False)
