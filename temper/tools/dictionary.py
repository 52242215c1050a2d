"""Look-up in a fixed table: the smallest tool with knowledge of its own."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from temper.tools.base import Result


class Dictionary:
    """`entries` by word, without regard to case; a word that is not there brings the nearest that are."""

    def __init__(self, entries: Mapping[str, str], *, name: str = "dictionary", description: str = "Looks a word up."):
        self.name, self.description = name, description
        self.entries = {_key(word): text for word, text in entries.items()}

    @property
    def parameters(self) -> dict[str, Any]:
        word = {"type": "string", "description": "the word", "maxLength": 200}
        return {"type": "object", "properties": {"word": word}, "required": ["word"]}

    async def __call__(self, word: str) -> Result:
        key = _key(word)
        if key in self.entries:
            return Result(self.entries[key])
        near = get_close_matches(key[:40], self.entries, n=3) if len(self.entries) <= 10_000 else []
        return Result(f"No entry {word!r}." + (f" Near: {', '.join(near)}." if near else ""), "tool error")


def _key(word: str) -> str:
    return " ".join(word.casefold().split())
