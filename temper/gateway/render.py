"""Messages to ids by the tokenizer's own template, with a client's text kept out of the control tokens.

A control word in the text of a message ("<|im_end|>") would become the token that ends a turn. It is broken by a
character that no text may contain, and the pieces are encoded one by one: the same text, but ordinary tokens. Text
without control words is encoded as the template alone would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from temper.gateway.errors import ApiError, invalid, too_long

BREAK = "\ufdd0"  # a noncharacter: Unicode keeps it out of texts


class Renderer:
    """Renders for one tokenizer. `context` bounds what is worth encoding at all."""

    def __init__(self, tokenizer: Any, context: int):
        self.tokenizer, self.context = tokenizer, context
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {str(t) for t in added.values() if t.special} | set(tokenizer.all_special_tokens)
        self.special = frozenset(w for w in special if w)
        self.added = self.special | {str(t) for t in added.values() if str(t)}
        self.longest = max((len(t) for t in tokenizer.get_vocab()), default=1)

    def text(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = (), *, opening: bool = True) -> str:
        """The template's text, with BREAK in control words that a message brought; opening: ask for an answer."""
        safe = [self._message(m) for m in messages]
        options = {"tools": [guarded(t, self.special) for t in tools]} if tools else {}
        try:
            out: str = self.tokenizer.apply_chat_template(
                safe, add_generation_prompt=opening, tokenize=False, **options
            )  # fmt: skip
        except ApiError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise invalid(f"the model's chat template refuses these messages: {first[:300]}", "messages")
        return out

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of a rendered text."""
        if len(text) > self.context * self.longest:  # more tokens than that, whatever they are: do not count them
            raise too_long(f"more than {self.context}", self.context)
        pieces = (self.tokenizer.encode(piece, add_special_tokens=False) for piece in text.split(BREAK) if piece)
        return tuple(i for piece in pieces for i in piece)

    def plain(self, text: str) -> tuple[int, ...]:
        """Ids of a text that is continued as it stands: its control words are meant (the client writes the prompt)."""
        return self.ids(_without_break(text))

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A user's or a tool's text can be no added token at all; other roles may write those that are not special."""
        words = self.added if message["role"] in ("user", "tool") else self.special
        return {k: v if k == "role" else guarded(v, words) for k, v in message.items()}


def guarded(value: Any, words: Iterable[str]) -> Any:
    """Every string in `value`, keys too, with its control words broken."""
    if isinstance(value, str):
        return _broken(_without_break(value), words)
    if isinstance(value, Mapping):
        return {guarded(k, words): guarded(v, words) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [guarded(v, words) for v in value]
    return value


def _broken(text: str, words: Iterable[str]) -> str:
    found = [w for w in words if w in text]
    while found:
        for word in found:
            text = text.replace(word, word[0] + BREAK + word[1:])
        found = [w for w in found if w in text and len(w) > 1]
    return text


def _without_break(text: str) -> str:
    if BREAK in text:
        raise invalid("U+FDD0 is not a character", "messages")
    return text
