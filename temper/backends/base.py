"""What a backend offers: a Sampler that continues ids, and a Learner that trains on batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import Column
from temper.episode import Completion
from temper.errors import UserError, unknown
from temper.objective import Term

Weights = Mapping[str, Tensor]
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a number -> a whole number as wide
Source = Column | Callable[[Batch], Tensor]


@dataclass(frozen=True)
class SamplingParams:
    """How one continuation is sampled.

    max_tokens   at most this many new tokens (the context may end earlier)
    temperature  divides the logits; 0 = greedy
    top_p, top_k truncate the distribution (1.0 and 0 = off); log-probs are those of what is left
    stop         strings that end it when they appear in its text (kept in the ids)
    stop_ids     token ids that end it, beside the model's own end tokens (kept in the ids)
    allowed      the only token ids that may be sampled (None: all)
    seed         of its random stream; the same seed and weights give the same tokens
    begun        the last so many of the ids given were sampled for this request already, which was cut: it goes on with
                 their random stream, and they count towards max_tokens and stop
    continued    the answer will be gone on from: the sampler may keep what it computed (no token depends on it)
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    allowed: tuple[int, ...] | None = None
    seed: int = 0
    begun: int = 0
    continued: bool = False

    def __post_init__(self) -> None:
        for ok, why in (
            (self.max_tokens >= 1, f"max_tokens must be at least 1, got {self.max_tokens}"),
            (self.temperature >= 0, f"temperature must not be negative, got {self.temperature}"),
            (0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}"),
            (self.top_k >= 0, f"top_k must not be negative, got {self.top_k}"),
            (self.allowed is None or len(self.allowed) > 0, "allowed must name at least one token id"),
        ):
            if not ok:
                raise UserError(why)

    def but(self, **changes: Any) -> SamplingParams:
        """A copy with these fields changed; UserError names what there is."""
        for name in changes:
            if name not in self.__dataclass_fields__:
                raise unknown("sampling parameter", name, list(self.__dataclass_fields__))
        return replace(self, **changes) if changes else self


class Gone(Exception):
    """Raised by a sampler whose process or machine is lost: what it was asked for may be asked for elsewhere."""


class ContextFull(ValueError):
    """The ids leave no room in the model's context: an attempt that ends so is dropped, and counted."""


def check_prompt(ids: Sequence[int], params: SamplingParams, context: int, vocabulary: int) -> None:
    """ContextFull when `ids` fill the context, ValueError for none, and for ids that the model does not have."""
    if len(ids) >= context:
        raise ContextFull(f"a context of {len(ids)} tokens leaves no room in a model of {context} positions")
    if not ids:
        raise ValueError("there is nothing to continue: give at least one token")
    strange = [i for i in (*ids, *(params.allowed or ())) if not 0 <= i < vocabulary]
    if strange:
        raise ValueError(f"token id {strange[0]} is outside the model's vocabulary of {vocabulary}")


@dataclass(frozen=True)
class Ack:
    """A sampler's answer to a push of weights: which version it now serves, and what they look like."""

    version: int
    fingerprint: str


class Sampler(Protocol):
    """What continues ids. Optional members:

    apart    True: it has its own copy of the weights, and may sample while the learner trains
    abort()  async: end every sample at once; each returns what it has, with finish "abort" (for `Sync` "token")
    """

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        """Continue `ids`. Raises ContextFull when they leave no room in the context."""
        ...

    async def load(self, weights: Weights, version: int) -> Ack:
        """Serve these weights from now on."""
        ...


class Learner(Protocol):
    def update(self, batch: Batch, terms: list[Term]) -> dict[str, float]:
        """One optimiser step on the whole of `batch`."""
        ...

    def read(self, batch: Batch, columns: Mapping[Column, Source]) -> Batch:
        """Write columns from a forward pass without gradient: from a live column, or from a function of the batch."""
        ...

    def weights(self) -> Weights: ...

    def load(self, weights: Weights) -> None: ...

    def save(self, folder: Path) -> None:
        """`model/` in Hugging Face layout and the training state beside it."""
        ...

    def restore(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class AdamW:
    """`lr`: a number, or a function of the optimiser step (0, 1, …). `clip` bounds the gradient norm (0: off)."""

    lr: float | Callable[[int], float] = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate(0) < math.inf:
            raise UserError(f"lr must be a finite number that is not negative; it begins at {self.rate(0):g}")

    def rate(self, step: int) -> float:
        return self.lr(step) if callable(self.lr) else self.lr


@dataclass(frozen=True)
class Lora:
    """PEFT's low-rank adapters, on every linear layer of the decoder unless `targets` names some."""

    rank: int = 16
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"the rank of LoRA's adapters must be at least 1, got {self.rank}")

    @property
    def leaves_base(self) -> bool:
        """Whether the model without its adapters is the one that training started from (PiSSA's is not)."""
        return self.options.get("init_lora_weights", True) in (True, "gaussian")


def fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits over every tensor's name and the sum of its numbers' bits, read as whole numbers.

    Whole numbers add up to the same in any order: on any device, with any number of threads. Weights that are elsewhere
    may bring theirs, as the attribute `fingerprint` of their items.
    """
    if known := getattr(weights, "fingerprint", ""):
        return str(known)
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in weights:
        digest.update(f"{name} {_words(tensor.detach()).sum(dtype=torch.int64).item()};".encode())
    return digest.hexdigest()


def _words(x: Tensor) -> Tensor:
    """Its bits as whole numbers: of eight bytes, which add up three times as fast, where rows are made of such."""
    size = x.element_size()
    if x.dim() == 0 or x.shape[-1] * size % 8:
        return x.view(BITS[size])
    x = x.contiguous()
    return (x.clone() if x.storage_offset() * size % 8 else x).view(torch.int64)
