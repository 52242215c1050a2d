"""The local sampler: continuous batching over any Hugging Face causal language model.

Requests that wait at the same time run together. A prompt that several of them share is computed once. Rows are
right-aligned in one key-value cache, finished rows leave it, new ones join between two steps. A request's tokens
depend on its seed, never on its neighbours' draws; ids and log-probs are those that were sampled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from temper.backends import recompute
from temper.backends.base import Ack, ContextFull, SamplingParams, Weights, fingerprint
from temper.episode import Completion
from temper.models import layout, load
from temper.models.decoder import Decoder
from temper.models.load import plain
from temper.models.probe import accepted

LEAVE = 0.8  # rows are compacted when fewer than this share of them still run


class LocalSampler:
    """Samples from `module`, which it shares with the learner of the same process.

    max_rows  sequences decoded at once; more wait
    """

    streams = True  # `sample` takes `heard`

    def __init__(self, module: Any, tokenizer: Any, *, max_rows: int = 1024, autocast: torch.dtype | None = None):
        self.module, self.tokenizer = module, tokenizer
        self.max_rows, self.autocast = max_rows, autocast
        self.context = load.context_length(module)
        self.end = load.end_ids(module, tokenizer)
        self.vocabulary = plain(module).get_input_embeddings().weight.shape[0]
        self.cached = recompute.keeps_keys(module)
        self.head = layout.head_of(module)
        self.decoder = Decoder.of(module, self.head) if self.cached and autocast is None else None
        self.version = 0
        self.tokens = 0  # sampled so far
        self._waiting: deque[_Request] = deque()
        self._joining: list[_Request] = []
        self._driver: asyncio.Task[None] | None = None

    async def load(self, weights: Weights, version: int) -> Ack:
        """The module is shared, so the weights are in place already: note the version and say what is served."""
        self.version = version
        served = ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)
        return Ack(version, fingerprint(served))

    async def sample(
        self, ids: tuple[int, ...], params: SamplingParams, heard: Callable[[int], None] | None = None
    ) -> Completion:
        """Continue `ids`; ContextFull when they fill the context, ValueError for ids that the model does not have.

        heard  is called with every token as it is drawn, but not with the one that ends the answer
        """
        if len(ids) >= self.context:
            raise ContextFull(f"a context of {len(ids)} tokens leaves no room in a model of {self.context} positions")
        if not ids:
            raise ValueError("there is nothing to continue: give at least one token")
        strange = [i for i in (*ids, *(params.allowed or ())) if not 0 <= i < self.vocabulary]
        if strange:
            raise ValueError(f"token id {strange[0]} is outside the model's vocabulary of {self.vocabulary}")
        request = _Request(tuple(ids), params, asyncio.get_running_loop().create_future(), self.version, heard)
        self._waiting.append(request)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
        return await request.future

    async def _drive(self) -> None:
        rows: _Rows | None = None
        try:
            while True:
                await _settle()
                while self._waiting and self._waiting[0].future.done():  # its coroutine was cancelled
                    self._waiting.popleft()
                if self._waiting and (rows is None or len(rows) < self.max_rows):
                    rows = self._admit(rows)
                if rows is None or len(rows) == 0:
                    if not self._waiting:
                        return
                    continue
                rows = self._step(rows)
        except BaseException as error:
            for request in [*(rows.requests if rows else []), *self._joining, *self._waiting]:
                if not request.future.done():
                    request.future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise

    @torch.inference_mode()
    def _admit(self, rows: _Rows | None) -> _Rows:
        """Compute the waiting requests' prompts (each distinct one once) and join them to the running rows."""
        room = self.max_rows - (len(rows) if rows else 0)
        taken = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        self._joining = taken = [r for r in taken if not r.future.done()]
        for r in taken:
            r.start(self)
        if self.decoder is not None:
            self.decoder.renew()
        prompts = list(dict.fromkeys(r.ids for r in taken))
        index = {p: i for i, p in enumerate(prompts)}
        width = max(map(len, prompts))
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in prompts])
        length = torch.tensor([len(p) for p in prompts])
        reserve = max(min(r.params.max_tokens, self.context - len(r.ids)) for r in taken)
        cache = _cache(self.module, width + min(reserve, 64)) if self.cached else recompute.History()
        logits = self._forward(ids, length, cache, width)
        pick = torch.tensor([index[r.ids] for r in taken])
        _select(cache, pick.to(logits.device))
        new = _Rows(taken, cache, width, length[pick], logits[pick.to(logits.device)])
        rows = new if rows is None or len(rows) == 0 else rows.join(new)
        self._joining = []
        return rows

    @torch.inference_mode()
    def _step(self, rows: _Rows) -> _Rows:
        """Draw one token for every row, retire the finished, and compute the next logits of the others."""
        ids, logp, support = _draw(rows.logits, rows.requests)
        for i, r in enumerate(rows.requests):
            if not r.future.done():
                self.tokens += 1
                if r.push(ids[i], logp[i], support[i]):
                    r.check(self.tokenizer)
        going = [i for i, r in enumerate(rows.requests) if not r.future.done()]
        if len(going) < LEAVE * len(rows):  # finished rows leave together: moving the cache costs more than they do
            rows = rows.keep(going)
            ids = [ids[i] for i in going]
        if going:
            rows.length, rows.filled = rows.length + 1, rows.filled + 1
            rows.logits = self._forward(torch.tensor(ids)[:, None], rows.length, rows.cache, rows.filled)
        return rows

    def _forward(self, ids: Tensor, length: Tensor, cache: Any, filled: int) -> Tensor:
        """[rows, vocabulary] logits, at least float32, after the last column of `ids`.

        length [rows]: tokens of each row, these included, in the `filled` columns
        """
        if self.decoder is not None and filled > ids.shape[1] == 1:
            return self._decoded(self.decoder, ids, length, cache, filled)
        model, device = plain(self.module), next(self.module.parameters()).device
        mask = _mask(length, filled).long()
        position = (mask.cumsum(1) - 1).clamp(0, self.context - 1)[:, -ids.shape[1] :]  # finished rows may run on
        with torch.autocast(device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            if isinstance(cache, recompute.History):
                cache.add(ids)
                logits = cache.logits(self.module, self.head, mask, self.context)
            else:
                inputs = accepted(
                    model,
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    position_ids=position.to(device),
                    logits_to_keep=1,
                )
                logits = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]
        return logits.float() if logits.dtype != torch.float64 else logits

    def _decoded(self, decoder: Decoder, ids: Tensor, length: Tensor, cache: Any, filled: int) -> Tensor:
        device = next(self.module.parameters()).device
        bias = None
        if int(length.min()) < filled:
            empty = ~_mask(length, filled)[:, None, None]
            bias = torch.zeros(empty.shape).masked_fill_(empty, -torch.inf).to(device)
        position = (length - 1).clamp(max=self.context - 1)
        return decoder.step(ids[:, 0].to(device), position.to(device), cache.layers, bias)


@dataclass(eq=False)
class _Request:
    ids: tuple[int, ...]
    params: SamplingParams
    future: asyncio.Future[Completion]
    version: int
    heard: Callable[[int], None] | None = None
    drawn: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    support: list[tuple[int, ...]] = field(default_factory=list)

    def start(self, sampler: LocalSampler) -> None:
        p = self.params
        self.limit = min(p.max_tokens, sampler.context - len(self.ids))
        self.ends = frozenset((*sampler.end, *p.stop_ids))
        self.watched = bool(p.stop) or self.heard is not None
        self.cut = p.temperature > 0 and (p.top_k or p.top_p < 1)
        self.version = sampler.version
        stream = np.random.Generator(np.random.Philox(key=[p.seed & (2**64 - 1), 0]))
        self.uniform: list[float] = stream.random(self.limit).tolist() if p.temperature > 0 else []

    def next_uniform(self) -> float:
        return self.uniform[len(self.drawn)] if len(self.drawn) < len(self.uniform) else 0.0

    def push(self, token: int, logp: float, support: tuple[int, ...] | None) -> bool:
        """Take one token; whether it may be the last."""
        self.drawn.append(token)
        self.logp.append(logp)
        if support is not None:
            self.support.append(support)
        return self.watched or token in self.ends or len(self.drawn) >= self.limit

    def check(self, tokenizer: Any) -> None:
        """Tell who listens; the token that ends the request resolves its future."""
        token = self.drawn[-1]
        if self.heard is not None and token not in self.ends:
            self.heard(token)
        done = token in self.ends or self._stopped(tokenizer)
        if done or len(self.drawn) >= self.limit:
            self._finish("stop" if done else "length", tokenizer)

    def _stopped(self, tokenizer: Any) -> bool:
        if not self.params.stop:
            return False
        longest = max(len(s.encode()) for s in self.params.stop)  # a token is at least a byte
        tail = tokenizer.decode(self.drawn[-longest - 8 :])
        return any(s in tail for s in self.params.stop)

    def _finish(self, reason: str, tokenizer: Any) -> None:
        if self.future.done():
            return
        text = tokenizer.decode([i for i in self.drawn if i not in self.ends])
        cut, p = tuple(self.support) if self.cut else None, self.params
        self.future.set_result(
            Completion(tuple(self.drawn), tuple(self.logp), reason, self.version, p.temperature, cut, p.allowed, text)
        )


@dataclass
class _Rows:
    """The running rows: one cache of `filled` columns, right-aligned; length [rows]; logits [rows, vocabulary]."""

    requests: list[_Request]
    cache: Any
    filled: int
    length: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.requests)

    def keep(self, rows: list[int]) -> _Rows:
        pick = torch.tensor(rows, dtype=torch.int64)
        _select(self.cache, pick.to(self.logits.device))
        length = self.length[pick]
        empty = self.filled - int(length.max()) if len(rows) else 0
        if empty:
            _trim(self.cache, empty)
        return _Rows([self.requests[i] for i in rows], self.cache, self.filled - empty, length, self.logits)

    def join(self, new: _Rows) -> _Rows:
        width = max(self.filled, new.filled)
        for a, b in zip(self.cache.layers, new.cache.layers):
            a.join(b, width)
        length, logits = torch.cat([self.length, new.length]), torch.cat([self.logits, new.logits])
        return _Rows(self.requests + new.requests, self.cache, width, length, logits)


def _mask(length: Tensor, filled: int) -> Tensor:
    """[rows, filled] true where a right-aligned row has a token."""
    return torch.arange(filled)[None] >= (filled - length)[:, None]


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [rows, heads, room, width] with room to grow in place; [.., :filled] is in use."""

    def __init__(self, room: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.filled = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys = key_states.new_zeros((rows, heads, self.room, width))
        self.all_values = value_states.new_zeros((rows, value_states.shape[1], self.room, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.filled + key_states.shape[2]
        if end > self.room:
            more = max(64, self.room // 2, end - self.room)
            self.all_keys, self.all_values = (
                torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self.all_keys, self.all_values)
            )
            self.room += more
        self.all_keys[:, :, self.filled : end] = key_states
        self.all_values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.all_keys[:, :, :end], self.all_values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.filled

    def select(self, rows: Tensor) -> None:
        self.all_keys, self.all_values = self.all_keys[rows], self.all_values[rows]

    def trim(self, left: int) -> None:
        self.all_keys, self.all_values = self.all_keys[:, :, left:], self.all_values[:, :, left:]
        self.filled -= left
        self.room -= left

    def join(self, other: _Layer, width: int) -> None:
        room = max(self.room - self.filled, other.room - other.filled)

        def align(x: Tensor, filled: int) -> Tensor:
            return torch.nn.functional.pad(x[:, :, :filled], (0, 0, width - filled, room))

        self.all_keys = torch.cat([align(self.all_keys, self.filled), align(other.all_keys, other.filled)])
        self.all_values = torch.cat([align(self.all_values, self.filled), align(other.all_values, other.filled)])
        self.filled, self.room = width, width + room


def _cache(module: Any, room: int) -> Any:
    config = plain(module).config.get_text_config()
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [_Layer(room) for _ in range(config.num_hidden_layers)]
    return cache


def _select(cache: Any, rows: Tensor) -> None:
    for layer in cache.layers:
        layer.select(rows)


def _trim(cache: Any, left: int) -> None:
    for layer in cache.layers:
        layer.trim(left)


async def _settle() -> None:
    """Give every coroutine that is ready the chance to ask, so that requests of one moment run together."""
    for _ in range(3):
        await asyncio.sleep(0)


def _draw(logits: Tensor, requests: list[_Request]) -> tuple[list[int], list[float], list[tuple[int, ...] | None]]:
    """One token a row: inverse transform of the request's own uniform draw; greedy at temperature 0."""
    temperature = torch.tensor([r.params.temperature for r in requests], dtype=logits.dtype)
    greedy = temperature == 0
    logits = logits.cpu() / torch.where(greedy, torch.ones_like(temperature), temperature)[:, None]
    support: list[tuple[int, ...] | None] = [None] * len(requests)
    for row, r in enumerate(requests):
        if r.params.allowed is not None:
            keep = torch.full_like(logits[row], -torch.inf)
            keep[list(r.params.allowed)] = 0.0
            logits[row] += keep
        if r.cut:
            support[row] = _truncate(logits, row, r.params)
    logp = torch.log_softmax(logits, dim=-1)
    u = torch.tensor([r.next_uniform() for r in requests], dtype=torch.float64)
    cumulative = logp.exp().cumsum(-1, dtype=torch.float64)
    drawn = torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True).squeeze(1)
    ids = drawn.clamp(max=logits.shape[1] - 1)
    if bool(greedy.any()):
        ids = torch.where(greedy, logp.argmax(-1), ids)
    return ids.tolist(), logp.gather(1, ids[:, None]).squeeze(1).tolist(), support


def _truncate(logits: Tensor, row: int, p: SamplingParams) -> tuple[int, ...]:
    """Cut the row to its top_k tokens, then to the fewest whose mass reaches top_p; returns the ids that are left."""
    order = logits[row].argsort(descending=True, stable=True)
    order = order[: int((logits[row] > -torch.inf).sum())]
    if p.top_k:
        order = order[: p.top_k]
    if p.top_p < 1:
        mass = torch.softmax(logits[row][order], dim=-1).cumsum(0)
        order = order[: int((mass < p.top_p).sum()) + 1]
    keep = torch.full_like(logits[row], -torch.inf)
    keep[order] = logits[row][order]
    logits[row] = keep
    return tuple(sorted(order.tolist()))
