"""A client's messages as text and ids: `temper.models.render`, with refusals in the API's words.

The special tokens in a text are text, whoever sent it. Other markup of the model ("<think>") is a user's or a tool's
text too, but means itself in what the system and the assistant say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from temper.errors import UserError
from temper.gateway.errors import invalid, too_long
from temper.models.render import CUT, TRUSTED, renderer_of

SAMPLE = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}


class Renderer:
    """Renders for one model. `context` bounds what is worth encoding at all."""

    def __init__(self, tokenizer: Any, context: int):
        self.tokenizer, self.context = tokenizer, context
        self.base = renderer_of(tokenizer)
        special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self.markup = frozenset(self.base.control.values()) - special
        self.longest = max((len(t) for t in tokenizer.get_vocab()), default=1)

    def text(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> str:
        """The template's text with marks, up to where the assistant begins to speak."""
        return self.marked_text(self.marked(messages), tools)

    def marked(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Messages with marks in the special tokens of what the system and the assistant say."""
        self._worth(_size(messages))
        if len(messages) > self.context:
            raise too_long(f"more than {self.context}", self.context)
        if any(m["role"] == "tool" for m in messages) and not self.base.knows("tool"):
            raise invalid("the model's chat template does not show messages of role tool", "messages")
        return [{**self._own(m), "role": m["role"]} if m["role"] in TRUSTED else m for m in messages]

    def marked_text(self, marked: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> str:
        """The template's text of messages that are marked already."""
        self._worth(_size(tools))
        if tools and not self.shows_tools:
            raise invalid("the model's chat template does not show tools", "tools")
        try:
            return self.base.text(marked, True, tools)
        except UserError as error:
            raise invalid(str(error)[:400], "messages")

    def ids(self, text: str, *, first: bool = True) -> tuple[int, ...]:
        """Ids of a text with marks. `first`: it begins the context."""
        self._worth(len(text))
        return self.base.ids(text, first)

    def plain(self, text: str, *, first: bool = True) -> tuple[int, ...]:
        """Ids of a prompt that the client wrote whole: its control tokens are meant."""
        return self.ids(text.replace(CUT, "\ufffd"), first=first)

    @cached_property
    def shows_tools(self) -> bool:
        return self.base.shows_tools([SAMPLE])

    def _own(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.base.own(value, self.markup)
        if isinstance(value, Mapping):
            return {self._own(k): self._own(v) for k, v in value.items()}
        return [self._own(v) for v in value] if isinstance(value, (list, tuple)) else value

    def _worth(self, characters: int) -> None:
        """Refuses what is longer than the context whatever its tokens are, before anything is encoded."""
        if characters > self.context * self.longest:
            raise too_long(f"more than {self.context}", self.context)


def _size(value: Any) -> int:
    """Characters in all strings of `value`."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(v) for v in value.values())
    return sum(_size(v) for v in value) if isinstance(value, (list, tuple)) else 0
