"""A model, tasks, a reward and a batch, all small enough that a check costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import GROUP, LOGP, REWARD, TOKEN, TRAJECTORY, Column, anything, boolean, integer
from temper.episode import Completion, Recorder
from temper.request import Request
from temper.tasks.task import Task

WIDTH = 8  # of hidden states in a toy batch
VOCABULARY = 4096  # at least that of the toy model


def toy_model(folder: Path, seed: int = 0) -> str:
    """A directory with a random GPT-2 of one layer and the bundled tokenizer.

    GPT-2, because in float64 it computes in float64: most others round to float32 in their norms.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    from temper.models.tiny import VOCAB_SIZE, save_tiny, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=512, n_embd=32, n_layer=1, n_head=2, initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = GPT2LMHeadModel(config)  # type: ignore[no-untyped-call]
    save_tiny(model, folder)
    return str(folder)


def toy_tasks() -> list[Task]:
    """Six tasks that need no skill."""
    return [Task(f"t{i}", f"say {w}", w, source="toy") for i, w in enumerate(["ab", "ba", "cd", "dc", "ad", "da"])]


@dataclass
class ToyReward:
    """Reward: the mean of id mod `of` over a trajectory, between 0 and 1; no process, no text.

    parts  names of further rewards REWARD.of(name), each with a divisor of its own
    """

    of: int = 17
    parts: tuple[str, ...] = ()
    reads = ()

    @property
    def writes(self) -> tuple[Column, ...]:
        return (REWARD, *(REWARD.of(name) for name in self.parts))

    async def __call__(self, b: Batch) -> Batch:
        b = b.put(REWARD, self._mean(b, self.of))
        for k, name in enumerate(self.parts):
            b = b.put(REWARD.of(name), self._mean(b, self.of + 1 + k))
        return b

    def _mean(self, b: Batch, of: int) -> Tensor:
        return b.mean((b.token_ids % of) / (of - 1), TOKEN, TRAJECTORY).nan_to_num(nan=0.0)


def random_ends(params: SamplingParams, every: int = 4, longest: int = 6) -> SamplingParams:
    """`params` where every `every`-th id ends the answer, so that a random model's answers differ in length."""
    return replace(params, max_tokens=longest, stop_ids=tuple(range(0, VOCABULARY, every)))


def toy_batch(columns: Iterable[Column] = (), seed: int = 0) -> Batch:
    """Three groups, with what can go wrong: ragged lengths, a shared turn, a greedy and a truncated answer, a
    demonstration, an answer that nobody judged. `columns` that it lacks are filled with random values (float64).
    """
    g = torch.Generator().manual_seed(seed)
    b = Batch.of([*_answers(g), *_tree(g), *_demonstration(g)])
    b = b.put(LOGP.of("behaviour"), b[LOGP.of("behaviour")].double())
    for column in columns:
        if column not in b:
            b = b.put(column, _values(column, b.size(column.level), g))
    return b


def toy_group(request: Request, columns: Iterable[Column] = ()) -> Batch:
    """The request as if it had been played and judged: one answer after another scores 0, ½, 0, ½ …

    `columns` that it lacks are filled with random values.
    """
    episodes = []
    for i in range(len(request.overrides())):
        record = Recorder(request.task)
        turn = record.sampled(_said(torch.Generator().manual_seed(i), 2), record.add((1, 2)))
        record.judge((0, turn), reward=(i % 2) / 2)
        episodes.append(replace(record.episode(), request=request.id, split=request.split))
    b, g = Batch.of(episodes), torch.Generator().manual_seed(0)
    return b.put_all({c: _values(c, b.size(c.level), g) for c in columns if c not in b})


def _answers(g: torch.Generator) -> list[Any]:
    lengths = (1, 4, 2, 3)
    out = []
    for i, n in enumerate(lengths):
        fields: dict[str, Any] = {"finish": "length" if i == 1 else "stop", "temperature": 0.0 if i == 2 else 1.0}
        record = Recorder(Task("answers", "?", "!"))
        turn = record.sampled(_said(g, n, **fields), record.add((1, 2, 3)))
        record.judge((0, turn), reward=None if i == 3 else i / 2, info={"chosen": (True, None, False, None)[i]})
        out.append(replace(record.episode(), request="answers"))
    return out


def _tree(g: torch.Generator) -> list[Any]:
    record = Recorder(Task("tree", "?", "!"))
    stem = record.sampled(_said(g, 2), record.add((1, 2)))
    for reward, chosen in ((1.0, True), (0.25, False)):
        leaf = record.sampled(_said(g, 3), record.add((4,), stem))
        record.judge((0, stem, leaf - 1, leaf), reward=reward, info={"chosen": chosen})
    return [replace(record.episode(), request="tree")]


def _demonstration(g: torch.Generator) -> list[Any]:
    out = []
    for chosen in (True, False):
        record = Recorder(Task("shown", "?", "!"))
        turn = record.add(_said(g, 2).ids, record.add((1, 2)), author="solver")
        record.judge((0, turn), info={"chosen": chosen})
        out.append(replace(record.episode(), request="shown"))
    return out


def _said(g: torch.Generator, n: int, **fields: Any) -> Completion:
    ids = torch.randint(0, 20, (n,), generator=g).tolist()
    return Completion(tuple(ids), tuple((-torch.rand(n, generator=g) - 0.05).tolist()), **fields)


def _values(column: Column, n: int, g: torch.Generator) -> Any:
    if column.dtype == anything:
        raise AssertionError(f"no toy value can be made up for {column.name!r} (dtype anything): pass a batch")
    if column.dtype == boolean:
        return torch.rand(n, generator=g) < 0.6
    if column.dtype == integer:
        return _signs(column, n, g)
    x = torch.randn((n, WIDTH) if column.name == "hidden" else n, generator=g, dtype=torch.float64)
    return -x.abs() - 0.05 if column.name.startswith("logp") else x


def _signs(column: Column, n: int, g: torch.Generator) -> Tensor:
    return torch.randint(-1, 2, (n,), generator=g) if column.level < GROUP else torch.randint(0, 2, (n,), generator=g)
