"""Texts as vectors: an embedder is a callable, texts -> float32 [texts, width] with rows of length 1 (or 0)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from temper.errors import UserError

Embedder = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class HashedNgrams:
    """Counts of character n-grams, hashed with a sign into `width` places: no model, the same on every machine.

    Case and white space do not count. It compares wording, not meaning. An empty text is 0.
    """

    width: int = 2048
    sizes: tuple[int, ...] = (1, 2, 3)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        out = torch.zeros(len(texts), self.width)
        for row, text in enumerate(texts):
            hashes = torch.tensor([crc32(gram.encode()) for gram in self.grams(text)], dtype=torch.int64)
            out[row].index_add_(0, hashes % self.width, torch.where(hashes >> 31 > 0, 1.0, -1.0))
        return _unit(out)

    def grams(self, text: str) -> Iterator[str]:
        plain = " ".join(text.casefold().split())
        return (plain[k : k + n] for n in self.sizes for k in range(len(plain) - n + 1))


@dataclass
class SentenceEmbedder:
    """A frozen sentence encoder of sentence-transformers, loaded when it is first called.

    model  a directory or a hub id; a text longer than `window` words is the mean of its windows, so nothing is cut off.
    UserError where the package is missing or the model cannot be loaded.
    """

    model: str
    device: str = "cpu"
    window: int = 128
    _module: Any = field(default=None, repr=False)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self._module = self._module or _sentence_model(self.model, self.device)
        pieces = [(n, piece) for n, text in enumerate(texts) for piece in self.windows(text)]
        if not pieces:
            return torch.zeros(len(texts), 1)
        found = self._module.encode([p for _, p in pieces], convert_to_tensor=True, show_progress_bar=False)
        found = _unit(found.float().cpu())
        owner = torch.tensor([n for n, _ in pieces])
        return _unit(torch.zeros(len(texts), found.shape[1]).index_add(0, owner, found))

    def windows(self, text: str) -> list[str]:
        words = text.split()
        return [" ".join(words[k : k + self.window]) for k in range(0, len(words), self.window)]


def _sentence_model(model: str, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError("sentence embeddings need a package: pip install 'temper-rl[embeddings]'") from None
    try:
        return SentenceTransformer(model, device=device)
    except (OSError, ValueError) as error:
        raise UserError(f"no sentence model could be loaded from {model!r}: {str(error).splitlines()[0]}") from None


def _unit(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.clamp(min=1e-12)
