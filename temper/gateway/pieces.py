"""A text that is shown while it is sampled: whole characters, and nothing that may become a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.gateway.answers import stopped


class Pieces:
    """Takes tokens, gives what can be shown. `sent` is what has been."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]):
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.sent = ""
        self._text = ""  # decoded so far, shown or held back
        self._ids: list[int] = []
        self._from = self._to = 0  # a window of tokens: how one is decoded depends on its neighbour

    def add(self, token: int) -> str:
        """What `token` lets be shown."""
        self._ids.append(token)
        before: str = self.tokenizer.decode(self._ids[self._from : self._to])
        after: str = self.tokenizer.decode(self._ids[self._from :])
        if len(after) <= len(before) or after.endswith("\ufffd"):  # half a character, so far
            return ""
        self._text += after[len(before) :]
        self._from, self._to = self._to, len(self._ids)
        found = self._safe()[len(self.sent) :]
        self.sent += found
        return found

    def _safe(self) -> str:
        """Up to a stop string, or to the beginning of one."""
        text = stopped(self._text, self.stop)
        if text != self._text:
            return text
        held = (n for word in self.stop for n in range(len(word) - 1, 0, -1) if text.endswith(word[:n]))
        return text[: len(text) - max(held, default=0)]
