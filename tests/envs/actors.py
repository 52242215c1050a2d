"""Policies whose words are known: a sampler that says what it is told to, and a tokenizer that guards what was said."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from temper.backends.base import SamplingParams
from temper.episode import Completion
from temper.models.load import turn_ends
from temper.models.render import Renderer
from temper.policy import Seat

Words = Callable[[int], str]  # the n-th sample → its text


class Guarded:
    """A tokenizer that refuses to encode a text which was sampled: decoding it and encoding it again may change it."""

    def __init__(self, tokenizer: Any):
        self.inner, self.said = tokenizer, set[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, text: str, **options: Any) -> Any:
        found = [s for s in self.said if s in text]
        assert not found, f"sampled text was encoded again: {found[0]!r} in {text[-200:]!r}"
        return self.inner.encode(text, **options)

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        assert not (options.get("tokenize", True) and self.said & {m.get("content") for m in messages})
        return self.inner.apply_chat_template(messages, **options)


@dataclass
class Actor:
    """A policy without weights that says `words`, with an end token unless the text is cut by max_tokens or a stop."""

    tokenizer: Any
    words: Words
    context: int = 10_000
    model: str = "actor"
    version: int = 0
    latency: float = 0.0
    module: Any = None  # where there is one, log-probs are its own
    asked: list[tuple[int, ...]] = field(default_factory=list)
    answers: list[Completion] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.raw = self.tokenizer.inner if isinstance(self.tokenizer, Guarded) else self.tokenizer
        self.end = turn_ends(self.raw)[-1]
        self.render = Renderer(self.raw)

    @property
    def sampler(self) -> Any:
        return SimpleNamespace(sample=self.sample, context=self.context)

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        text = self.words(len(self.asked))
        self.asked.append(ids)
        if self.latency:
            await asyncio.sleep(random.Random(params.seed).random() * self.latency)
        new = self.render.ids(text)
        if params.allowed is not None:
            new = tuple(i for i in new[:1] if i in params.allowed) or params.allowed[:1]
        said = [*new, self.end][: params.max_tokens]
        stopped = next((n for n in range(1, len(new)) if any(s in self.raw.decode(new[:n]) for s in params.stop)), 0)
        said = said[: stopped or len(said)]
        shown = self.raw.decode([i for i in said if i != self.end])
        finish = "stop" if stopped or said[-1] == self.end else "length"
        if isinstance(self.tokenizer, Guarded) and len(shown) > 3:
            self.tokenizer.said.add(shown)
        logp = self._logp(ids, said, params.allowed)
        self.answers.append(Completion(tuple(said), logp, finish, text=shown, allowed=params.allowed))
        return self.answers[-1]

    def _logp(self, ids: Sequence[int], said: Sequence[int], allowed: Sequence[int] | None) -> tuple[float, ...]:
        if self.module is None:
            return (-1.0,) * len(said)
        with torch.no_grad():
            logits = self.module(torch.tensor([[*ids, *said]])).logits[0, len(ids) - 1 : -1]
        return tuple(among(logits, allowed).log_softmax(-1).gather(1, torch.tensor(said)[:, None]).squeeze(1).tolist())


def among(logits: torch.Tensor, allowed: Sequence[int] | None) -> torch.Tensor:
    """Logits of the ids that may be sampled; −∞ of the others."""
    if allowed is None:
        return logits
    return torch.full_like(logits, -torch.inf).index_copy(-1, torch.tensor(allowed), logits[..., list(allowed)])


def seat(actor: Any, role: str = "solver", who: object = 0, max_tokens: int = 64) -> Seat:
    return Seat(role, actor, SamplingParams(max_tokens=max_tokens), 0, (who,))


def says(*lines: str) -> Words:
    """The lines in turn, again and again."""
    return lambda n: lines[n % len(lines)]
