"""Search in a local corpus by BM25, and access to its pages (package `bm25s`: `pip install 'temper-rl[search]'`)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from temper.errors import UserError
from temper.tools.base import Result

_WORD = re.compile(r"\w+")
_PASSAGE = 800  # characters of a document that are shown


class Document(NamedTuple):
    """url: what `Access` opens it by; empty where the corpus has none."""

    title: str
    text: str
    url: str = ""


class Search:
    """`corpus`: documents, as texts or as {"title", "text", "url"}; or a JSONL file of either.

    top  how many documents a query brings; k1, b  the parameters of BM25
    """

    def __init__(
        self,
        corpus: Sequence[str | Mapping[str, Any]] | str | Path,
        *,
        top: int = 3,
        k1: float = 1.5,
        b: float = 0.75,
        name: str = "search",
        description: str = "Searches a collection of documents and returns the best matches.",
    ):
        self.name, self.description = name, description
        self.documents = [_document(one) for one in _load(corpus)]
        if not self.documents:
            raise UserError("the search tool has no documents")
        self.top = min(top, len(self.documents))
        self._index = _index([_words(f"{d.title} {d.text}") for d in self.documents], k1, b)
        self._pages = {d.url: d for d in self.documents if d.url}

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def parameters(self) -> dict[str, Any]:
        query = {"type": "string", "description": "words to search for", "maxLength": 1000}
        return {"type": "object", "properties": {"query": query}, "required": ["query"]}

    async def __call__(self, query: str) -> Result:
        found = await self.search(query)
        return Result("\n\n".join(map(_shown, range(1, len(found) + 1), found)) or "No document matches.")

    async def search(self, query: str, top: int = 0) -> list[Document]:
        """The documents that match best, best first (at most `top`; 0: the tool's own)."""
        found = await asyncio.to_thread(self.find, query)
        return [self.documents[n] for n in found[: top or None]]

    async def access(self, url: str) -> str | None:
        """The whole text behind a url, its title first; None where there is no such page."""
        found = self._pages.get(url)
        return None if found is None else f"{found.title}\n{found.text}" if found.title else found.text

    def find(self, query: str) -> list[int]:
        """Numbers of the documents that match best, best first; only those that share a word with the query."""
        words = _words(query)
        if not words:
            return []
        numbers, scores = self._index.retrieve([words], k=self.top, show_progress=False)
        return [int(n) for n, score in zip(numbers[0], scores[0], strict=True) if score > 0]


class Access:
    """Opens a page that `search` found, by its url."""

    name, description = "access", "Opens a page by its url."
    parameters = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}  # noqa: RUF012

    def __init__(self, search: Search):
        self._search = search

    async def __call__(self, url: str) -> Result:
        page = await self._search.access(url)
        return Result(f"There is no page {url[:80]!r}.", "tool error") if page is None else Result(page)


def _shown(rank: int, found: Document) -> str:
    text = found.text if len(found.text) <= _PASSAGE else f"{found.text[:_PASSAGE]}…"
    head = " ".join(filter(None, (found.title, f"({found.url})" if found.url else "")))
    return f"[{rank}] {head}\n{text}" if head else f"[{rank}] {text}"


def _index(words: list[list[str]], k1: float, b: float) -> Any:
    try:
        import bm25s
    except ImportError:
        raise UserError("the search tool needs the package bm25s: pip install 'temper-rl[search]'") from None
    index = bm25s.BM25(k1=k1, b=b)
    index.index(words, show_progress=False)
    return index


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _document(one: str | Mapping[str, Any]) -> Document:
    if isinstance(one, str):
        return Document("", one)
    return Document(str(one.get("title", "")), str(one["text"]), str(one.get("url", "")))


def _load(corpus: Sequence[str | Mapping[str, Any]] | str | Path) -> Sequence[str | Mapping[str, Any]]:
    if not isinstance(corpus, (str, Path)):
        return corpus
    try:
        lines = Path(corpus).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"the search tool cannot read {corpus}: {error}") from None
