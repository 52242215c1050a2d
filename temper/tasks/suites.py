"""Bundled task suites: Reasoning Gym tasks that temper-tiny can begin with, and the skills it is made of."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from temper.tasks.reasoning_gym import ReasoningGym
from temper.tasks.task import Task

TRAIN_SEED, HELD_OUT_SEED = 100, 7  # Reasoning Gym seeds; a run's own seed is added to the first


@dataclass(frozen=True)
class Part:
    """One data set at one difficulty.

    source  what evaluation reports it as (default: the data set's name); two difficulties need two names
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def label(self) -> str:
        return self.source or self.name

    def tasks(self, size: int, seed: int) -> ReasoningGym:
        return ReasoningGym(self.name, size, seed, **self.config)


@dataclass(frozen=True)
class Suite:
    """`train` is trained on; `held_out` is only measured, beside fresh questions of every part of `train`."""

    train: tuple[Part, ...]
    held_out: tuple[Part, ...] = ()


QUICKSTART_TRAIN = (
    Part("chain_sum", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}),
    Part("gcd", {"max_value": 50}),
    Part("count_bits", {"max_n": 127}),
    Part("letter_counting", {"min_words": 2, "max_words": 4}),
    Part("spell_backward", {"min_word_len": 3, "max_word_len": 5}),
)
QUICKSTART_HELDOUT = (
    Part("chain_sum", {"min_terms": 4, "max_terms": 5, "min_digits": 1, "max_digits": 1}, "chain_sum, 4 or 5 terms"),
    Part("products", {"min_digits": 1, "max_digits": 1}),
)
SUITES: dict[str, Suite] = {"quickstart": Suite(QUICKSTART_TRAIN, QUICKSTART_HELDOUT)}

# Pre-training mixture of temper-tiny: skill → relative frequency.
BASE_SKILLS: dict[str, float] = {
    "chain_sum": 4.0,
    "basic_arithmetic": 1.0,
    "products": 1.0,
    "gcd": 2.0,
    "modular": 1.0,
    "count_bits": 1.5,
    "prime_factorization": 1.0,
    "spell_backward": 2.0,
    "letter_counting": 2.0,
    "case": 1.0,
    "number_sorting": 1.0,
    "compare": 1.0,
    "countdown": 1.0,
    "truth": 0.5,
    "order": 0.5,
    "format": 0.5,
    "tool": 0.7,
    "guess": 0.5,
    "stones": 0.3,
}


def is_held_out(question: str) -> bool:
    """Whether a question belongs to evaluation: a fifth of all questions, by their text, so that none is in both."""
    return zlib.crc32(question.encode()) % 5 == 0


class Interleaved(Sequence[Task]):
    """The parts' tasks in turn: part 0's first, part 1's first, …; generated when they are asked for.

    held_out  which side of `is_held_out` the questions come from; item i of a part is its first such question in a
              window of its own
    """

    _WINDOW = 64

    def __init__(self, parts: Sequence[Part], size: int, seed: int, held_out: bool) -> None:
        each = -(-size // len(parts))
        self.parts, self.size, self.held_out = parts, size, held_out
        self.sources = [part.tasks(each * self._WINDOW, seed) for part in parts]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        turn, which = divmod(range(self.size)[index], len(self.parts))
        for candidate in range(turn * self._WINDOW, (turn + 1) * self._WINDOW):
            task: Task = self.sources[which][candidate]
            if is_held_out(str(task.prompt)) == self.held_out:
                return replace(task, source=self.parts[which].label)
        raise ValueError(f"{self.parts[which].label} has too few questions to keep some from training")


def suite(name: str) -> Suite:
    """A bundled suite; ValueError names those that exist."""
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; there are: {', '.join(SUITES)}")
    return SUITES[name]


def train_tasks(name: str, seed: int = 0, size: int = 100_000) -> Sequence[Task]:
    """A suite's training tasks, the parts in turn."""
    return Interleaved(suite(name).train, size, TRAIN_SEED + seed, held_out=False)


def held_out_tasks(name: str, size: int, seed: int = HELD_OUT_SEED) -> Sequence[Task]:
    """A suite's evaluation tasks: fresh questions of what is trained on, and the parts that never are."""
    found = suite(name)
    return Interleaved((*found.train, *found.held_out), size, seed, held_out=True)
