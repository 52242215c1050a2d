"""The token-exact core of every environment that talks more than once.

    chat = Chat(seat, record, turns=4)
    chat.start(task.messages, tools=box.schemas)
    while (said := await chat.say()) is not None:
        …
        if not chat.observe([{"role": "tool", "content": result.text}]):
            break                                       # chat.finish says why
    chat.judge(reward=1.0)

What was sampled stays as it was sampled: it is never encoded again. An observation is rendered by the tokenizer's own
template behind everything before it, and only what it adds is tokenised, alone and once. A template that shows the past
in another way than the model saw it (Qwen3 drops earlier reasoning) opens a fresh context (parent −1), counted as a
fork: then the model sees what its template says, and nothing drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from temper.backends.base import ContextFull
from temper.episode import ENV, Completion, Recorder
from temper.errors import UserError
from temper.models.render import renderer_of
from temper.policy import Seat
from temper.request import Drop

Message = Mapping[str, Any]
Until = Callable[[str], int | None]  # the text so far → how many characters of it count; None: all
TURNS, TOKENS, CONTEXT = "turn limit", "token limit", "context full"  # why a chat is over
NO_LIMIT = 1 << 30


class Chat:
    """One seat's conversation in an episode.

    turns   most turns that the policy takes; tokens: most tokens that it samples in all (0: no limit)
    longest most tokens in a context (0: the model's own limit)
    finish  empty, or why the policy cannot speak again; the last turn is then its own
    members the turns of this conversation, over all contexts; forks: how many fresh contexts the template opened
    """

    def __init__(
        self, seat: Seat, record: Recorder, *, turns: int = 0, tokens: int = 0, longest: int = 0, **options: Any
    ):
        self.seat, self.record, self.options = seat, record, options
        self.render = renderer_of(seat.tokenizer)
        own = getattr(seat.policy.sampler, "context", NO_LIMIT)
        self.longest = min(longest or NO_LIMIT, own)
        self._turns_left, self._tokens_left = turns or NO_LIMIT, tokens or NO_LIMIT
        self.finish = ""
        self.forks = self.said = 0
        self.members: list[int] = []
        self._messages: list[Message] = []
        self._seen = ""  # the text that the model has in context, with the marks of `render`
        self._answer: Completion | None = None  # the last one, until something is observed

    @property
    def context(self) -> tuple[int, ...]:
        """The ids that the model has in context."""
        return self.record.context(self.members[-1]) if self.members else ()

    def start(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> bool:
        """Render the beginning, or a fresh context in the middle of an episode. False when it leaves no room.

        Raises Drop where no policy has spoken in the episode: then the task is too long. What others have said may be
        too long as well, and that is no reason to drop what they are judged by.
        """
        if tools:
            self.options["tools"] = tools
        self._messages = list(messages)
        text = self.render.text(self._messages, **self.options)
        ids = self.render.ids(text, first=True)
        if len(ids) >= self.longest:
            if all(t.author == ENV for t in self.record.turns):
                raise Drop("prompt too long")
            self.finish = CONTEXT
            return False
        self.finish = "" if self.finish == CONTEXT else self.finish  # a fresh context has room
        self._add(ids, -1, text, messages[-1:])
        return True

    async def say(self, until: Until | None = None, **overrides: Any) -> Completion | None:
        """The policy's turn, None when it is over. With `until` it is cut at the token that completes that much text.

        Overrides are those of `Seat.sample`; max_tokens is lowered to what the budget and the context leave.
        """
        if self.finish or self._answer is not None:
            return None
        context = self.context
        room = min(self.longest - len(context), self._tokens_left)
        most = min(int(overrides.pop("max_tokens", self.seat.params.max_tokens)), room)
        try:
            more = self._turns_left > 1 and self._tokens_left > most
            said = await self.seat.sample(context, max_tokens=most, continued=more, **overrides)
        except ContextFull:
            self.finish = CONTEXT
            return None
        said = cut(said, until(said.text), self.seat.tokenizer) if until else said
        self.members.append(self.record.sampled(said, self.members[-1], author=self.seat.role))
        self.said += 1
        self._turns_left -= 1
        self._tokens_left -= len(said.ids)
        self._answer = said
        self._messages.append({"role": "assistant", "content": self.render.own(said.text, said.ids)})
        return said

    def observe(self, messages: Sequence[Message]) -> bool:
        """Show what came back, and let the policy speak. False when it cannot (see `finish`): then nothing is added."""
        if self._answer is None:
            raise ValueError("nothing was said since the last observation: show all messages at once")
        if not self.may_go_on():
            return False
        for role in {str(m["role"]) for m in messages}:
            if not self.render.knows(role):
                raise UserError(
                    f"the chat template of {self.seat.policy.model!r} does not show messages of role {role!r}"
                )
        text = self.render.text([*self._messages, *messages], **self.options)
        past = shown(text, self._seen, str(self._messages[-1]["content"]))
        parent, ids = self._continued(text, past)
        if len(ids) + (len(self.context) if parent >= 0 else 0) >= self.longest:
            self.finish = CONTEXT
            return False
        self.forks += parent < 0
        self._messages += messages
        self._add(ids, parent, text, messages)
        return True

    def may_go_on(self) -> bool:
        """Whether the budget leaves another turn; if not, `finish` says what is spent."""
        limits = ((self._turns_left, TURNS), (self._tokens_left, TOKENS))
        self.finish = self.finish or next((why for left, why in limits if left <= 0), "")
        return not self.finish

    def judge(self, reward: float | None = None, **fields: Any) -> None:
        """Declare the trajectory; `info` gets how many turns were said, forks, and why it ended."""
        info = {"turns": self.said, "forks": self.forks, "finish": self.finish or "done", **fields.pop("info", {})}
        self.record.judge(self.members, role=self.seat.role, reward=reward, info=info, **fields)

    def _continued(self, text: str, past: int | None) -> tuple[int, tuple[int, ...]]:
        """(parent, ids) of what is added; an end token that was sampled already is not added again."""
        if past is None:
            return -1, self.render.ids(text, first=True)
        ids = self.render.ids(text[past:])
        assert self._answer is not None
        end = self._answer.ids[-1] if self._answer.finish == "stop" and self._answer.ids else -1
        return self.members[-1], behind(ids, end, self.seat.tokenizer) if end in self.render.forbidden else ids

    def _add(self, ids: Sequence[int], parent: int, text: str, messages: Sequence[Message]) -> None:
        said = "\n".join(str(m.get("content") or "") for m in messages)
        self.members.append(self.record.add(ids, parent, text=said))
        self._seen, self._answer = text, None


def shown(text: str, before: str, answer: str) -> int | None:
    """How much of `text` is `before` and then `answer`, up to its white space; None: it shows another past."""
    if not text.startswith(before):
        return None
    if text.startswith(answer, len(before)):
        return len(before) + len(answer)
    at = len(before)
    for character in answer:
        if character.isspace():
            continue
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith(character, at):
            return None
        at += 1
    return at


def behind(ids: tuple[int, ...], end: int, tokenizer: Any) -> tuple[int, ...]:
    """`ids` without the end token that was sampled already, nor the white space that a template puts before it."""
    for n, i in enumerate(ids):
        if i == end:
            return ids[n + 1 :]
        if tokenizer.decode([i]).strip():
            break
    return ids


def cut(said: Completion, characters: int | None, tokenizer: Any) -> Completion:
    """`said` up to the first token with which its text has so many characters; ids are dropped, never encoded."""
    if characters is None or characters >= len(said.text):
        return said
    wanted = said.text[:characters]
    low, high = 1, len(said.ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(tokenizer.decode(said.ids[:middle])) >= characters else (middle + 1, high)
    while low < len(said.ids) and not tokenizer.decode(said.ids[:low]).startswith(wanted):
        low += 1
    if low == len(said.ids):
        return said
    support = None if said.support is None else said.support[:low]
    text = tokenizer.decode(said.ids[:low])
    return replace(said, ids=said.ids[:low], logp=said.logp[:low], support=support, text=text, finish="stop")
