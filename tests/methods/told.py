"""A policy whose sampler says what a test wants, by a real tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import REWARD
from temper.episode import Completion, Recorder
from temper.models.load import turn_ends
from temper.models.tiny import tiny_tokenizer
from temper.tasks.task import Task


class Told:
    """says(n, context) → the n-th text that is sampled; a text that ends with … is cut off there."""

    def __init__(self, says: Callable[[int, str], str]) -> None:
        self.tokenizer, self.version, self.says = tiny_tokenizer(), 0, says
        self.asked: list[tuple[str, SamplingParams]] = []
        self.sampler = SimpleNamespace(sample=self.sample)

    async def sample(self, ids: Sequence[int], params: SamplingParams) -> Completion:
        self.asked.append((str(self.tokenizer.decode(list(ids))), params))
        return said(self.says(len(self.asked) - 1, self.asked[-1][0]))


def said(text: str) -> Completion:
    """A sampled answer with this text, every log-prob −1."""
    tokenizer, whole = tiny_tokenizer(), not text.endswith("…")
    ids = (*tokenizer.encode(text.rstrip("…"), add_special_tokens=False), *([turn_ends(tokenizer)[-1]] * whole))
    return Completion(ids, (-1.0,) * len(ids), "stop" if whole else "length", text=str(tokenizer.decode(list(ids))))


def attempts(task: Task, answers: Sequence[tuple[str, float | None]], request: str = "1:t") -> Batch:
    """A group: answers with their rewards."""
    made = []
    for text, reward in answers:
        record = Recorder(task)
        prompt = record.add(tiny_tokenizer().encode(str(task.prompt)), text=str(task.prompt))
        record.judge([prompt, record.sampled(said(text), prompt)], reward=reward)
        made.append(replace(record.episode(), request=request))
    b = Batch.of(made)
    return b if REWARD in b else b.put(REWARD, torch.full((len(made),), torch.nan))
