"""Messages as text and ids by the tokenizer's own chat template, where no message can forge a control token.

What a user, a tool or another player says may contain "<|im_start|>" or "</tool_response>". Before the template sees
it, a mark (CUT, a character that no text has) is put inside every such string; afterwards the text is tokenised between
the marks, so that its letters become ordinary tokens and it still decodes to the same text. What the system and the
assistant say is the caller's own, and keeps its control tokens.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from temper.errors import UserError

Message = Mapping[str, Any]
CUT = "\ufdd0"  # a Unicode noncharacter: never part of a text
TRUSTED = ("system", "developer", "assistant")  # roles whose text is not a stranger's
REMEMBERED = 256  # openings of conversations
MARKUP = re.compile(r"</?[^\s<>]+>|\[/?[^\s\[\]]+\]")  # added tokens of this shape are control, special or not


class Renderer:
    """A tokenizer's template. `renderer_of` keeps one for each tokenizer.

    control  the strings that are control tokens, with their ids
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = {t.content: (i, t) for i, t in tokenizer.added_tokens_decoder.items()}
        self.control = {s: i for s, (i, t) in added.items() if t.special or MARKUP.fullmatch(s)}
        longest_first = sorted(self.control, key=len, reverse=True)
        self._strings = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        harmless = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
        self.forbidden = frozenset(self.control.values()) - harmless
        self._anchor = next((s for s, (i, t) in added.items() if not t.rstrip and self._encode(f"{s}a")[:1] == [i]), "")
        self.knows = cache(self._knows)
        self._text, self._opened = lru_cache(REMEMBERED)(self._render), lru_cache(REMEMBERED)(self._pieces)

    # messages → text -------------------------------------------------------------------------------------------------

    def text(self, messages: Sequence[Message], opening: bool = True, tools: Sequence[Any] = (), **options: Any) -> str:
        """The conversation as text with marks; `opening`: up to where the assistant begins to speak."""
        try:  # every attempt at a task opens with the same
            asked = json.dumps([list(messages), opening, list(tools), options])
            return self._text(asked, self.tokenizer.chat_template)
        except (TypeError, ValueError):  # what is no JSON is not remembered
            return self._rendered(messages, opening, tools, options)

    def _render(self, asked: str, template: str) -> str:
        messages, opening, tools, options = json.loads(asked)
        return self._rendered(messages, opening, tools, options)

    def _rendered(
        self, messages: Sequence[Message], opening: bool, tools: Sequence[Any], options: dict[str, Any]
    ) -> str:
        shown = [dict(m) if m["role"] in TRUSTED else {**self._harmless(m), "role": m["role"]} for m in messages]
        if tools:
            options = {**options, "tools": [self._harmless(t) for t in tools]}
        try:
            out = self.tokenizer.apply_chat_template(shown, add_generation_prompt=opening, tokenize=False, **options)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the chat template refuses these messages: {first}")
        return str(out)

    def quoted(self, text: str) -> str:
        """A stranger's `text` with a mark inside everything that would become a control token."""
        marked = self.own(text)
        if self._innocent(marked):
            return marked
        return CUT.join(c if self._innocent(c) else "\ufffd" for c in text.replace(CUT, "\ufffd"))

    def own(self, text: str, ids: Collection[int] = ()) -> str:
        """What a policy sampled as `ids`, marked where it spelled a control token. None of it is encoded."""
        text, meant = text.replace(CUT, "\ufffd"), set(ids)
        return self._strings.sub(lambda m: m[0] if self.control[m[0]] in meant else self._halved(m[0]), text)

    def _knows(self, role: str) -> bool:
        """Whether the template shows a message of `role` that follows an answer."""
        said = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        try:
            return "observed" in self.text([*said, {"role": role, "content": "observed"}])
        except UserError:
            return False

    def shows_tools(self, tools: Sequence[Any]) -> bool:
        """Whether the template tells the model about `tools`."""
        said = [{"role": "user", "content": "question"}]
        return self.text(said, tools=tools) != self.text(said)

    def _harmless(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.quoted(value)
        if isinstance(value, Mapping):
            return {self._harmless(k): self._harmless(v) for k, v in value.items()}
        return [self._harmless(v) for v in value] if isinstance(value, (list, tuple)) else value

    def _halved(self, string: str) -> str:
        halves = (string[:k] + CUT + string[k:] for k in range(1, len(string)))
        return next((h for h in halves if self._innocent(h)), CUT.join(string))

    def _innocent(self, marked: str) -> bool:
        return self.forbidden.isdisjoint(self.ids(marked))

    # text → ids ------------------------------------------------------------------------------------------------------

    def ids(self, marked: str, first: bool = False) -> tuple[int, ...]:
        """Ids of a text with marks. `first`: it begins the context; else it is tokenised as what follows something."""
        return self._opened(marked) if first else self._pieces(marked, False)

    def _pieces(self, marked: str, first: bool = True) -> tuple[int, ...]:
        head, *rest = marked.split(CUT)
        out = self._encode(head) if first else self._after(head)
        return tuple(i for part in (out, *map(self._after, rest)) for i in part)

    def _after(self, text: str) -> list[int]:
        """Ids in the middle of a text: tokenizers of the SentencePiece kind put a space before the first word."""
        if not text:
            return []
        return self._encode(self._anchor + text)[1:] if self._anchor else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def plain(marked: str) -> str:
    """The text without its marks."""
    return marked.replace(CUT, "")


def _kept() -> Callable[[Any], Renderer]:
    kept: weakref.WeakKeyDictionary[Any, Renderer] = weakref.WeakKeyDictionary()

    def renderer_of(tokenizer: Any) -> Renderer:
        """The tokenizer's renderer, made once for each template."""
        known = kept.get(tokenizer)
        if known is None:
            kept[tokenizer] = known = Renderer(weakref.proxy(tokenizer))
        return known

    return renderer_of


renderer_of = _kept()
