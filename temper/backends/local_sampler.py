"""The local sampler: continuous batching over any Hugging Face causal language model.

Requests that wait at the same time run together. A prompt that several of them share is computed once. Rows are
right-aligned in one key-value cache, finished rows leave it, new ones join between two steps. A request's tokens
depend on its seed, never on its neighbours' draws; ids and log-probs are those that were sampled. Where the next tokens
can be guessed, guesses are computed with the newest token in one pass and kept while the draws agree with them
(`temper.backends.speculate`): the n-th token is drawn with the request's n-th uniform number either way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from temper.backends import recompute
from temper.backends.base import Ack, SamplingParams, Weights, check_prompt, fingerprint
from temper.backends.draw import draw as _draw
from temper.backends.keys import Layer, behind, cache_of, spared
from temper.backends.prefixes import Ids, Prefixes, Stored, stems
from temper.backends.rows import SPARED, Rows, right, select
from temper.backends.speculate import Speculation
from temper.episode import Completion
from temper.models import layout, load
from temper.models.decoder import Decoder
from temper.models.load import plain, trunk
from temper.models.probe import TOLERANCE, accepted

ALONE = (-1,)  # what follows the guesses
LEAVE = 0.8  # finished rows leave when fewer than this share still run
KEPT = 1 << 30  # bytes of stored keys and values
LEAST, WORTH = 16, 64  # tokens of a stored prefix that is used, and that a pass of its own for a shared one must spare
AHEAD = 64  # steps that a bias is made for
WASTE, PASS = 64, 1 << 15  # padding, and all tokens, that a pass over prompts may have (padding: or a quarter)


class LocalSampler:
    """Samples from `module`, which it shares with the learner of the same process.

    max_rows  sequences decoded at once; more wait
    drafts    guesses of what comes next (None: none); not used for models without a key-value cache
    kept      most bytes of keys and values that are stored for what continues a context (`temper.backends.prefixes`)
    """

    streams = True  # `sample` takes `heard`

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        *,
        max_rows: int = 1024,
        autocast: torch.dtype | None = None,
        drafts: Speculation | None = None,
        kept: int = KEPT,
    ):
        self.module, self.tokenizer = module, tokenizer
        self.max_rows, self.autocast = max_rows, autocast
        self.context = load.context_length(module)
        self.end = load.end_ids(module, tokenizer)
        self.vocabulary = plain(module).get_input_embeddings().weight.shape[0]
        self.cached = recompute.keeps_keys(module)
        self.head = layout.head_of(module)
        self.decoder = Decoder.of(module, self.head) if self.cached and autocast is None else None
        extensible = self.cached and self.head is not None
        self.drafts = drafts if extensible else None
        self.prefixes = Prefixes(kept if extensible else 0)
        self._weights = list(module.parameters())
        self.device = self._weights[0].device
        self._edge = _Edge(self.device)
        self._stamp = -1
        self._extends: bool | None = None if extensible else False  # not known before it is needed
        self.version = 0
        self.tokens = 0  # sampled so far
        self.passes = 0  # of the model that they took, counted for each row
        self._hidden: Tensor | None = None
        self._waiting: deque[_Request] = deque()
        self._joining: list[_Request] = []
        self._resolved = True  # whether somebody was just answered, and may ask again
        self._asked: dict[_Request, None] = {}
        self._driver: asyncio.Task[None] | None = None

    async def load(self, weights: Weights, version: int) -> Ack:
        """The module is shared, so the weights are in place already: note the version and say what is served."""
        self.version = version
        self.forget()
        served = ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)
        return Ack(version, fingerprint(served))

    def forget(self) -> None:
        """Drop the stored contexts: a run does so after every step, since a resumed one begins without any."""
        self.prefixes.clear()

    async def sample(
        self, ids: tuple[int, ...], params: SamplingParams, heard: Callable[[int], None] | None = None
    ) -> Completion:
        """Continue `ids`; ContextFull when they fill the context, ValueError for ids that the model does not have.

        heard  is called with every token as it is drawn, but not with the one that ends the answer
        """
        check_prompt(ids, params, self.context, self.vocabulary)
        request = _Request(tuple(ids), params, asyncio.get_running_loop().create_future(), self.version, heard)
        self._waiting.append(request)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
        self._asked[request] = None
        try:
            return await request.future
        finally:
            del self._asked[request]

    async def abort(self) -> None:
        """End every sample at once; each returns what it has, with finish "abort"."""
        for request in [*self._asked]:
            if request in self._waiting:
                request.start(self)
            request.finish("abort", self.tokenizer)

    async def _drive(self) -> None:
        rows: Rows | None = None
        self._resolved = True
        try:
            while True:
                await _settle(3 if self._resolved else 1)
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
    def _admit(self, rows: Rows | None) -> Rows:
        """Compute the waiting requests' prompts (each distinct one once) and join them to the running rows."""
        room = self.max_rows - (len(rows) if rows else 0)
        taken = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        self._joining = taken = [r for r in taken if not r.future.done()]
        self._renew()
        for r in taken:
            r.start(self)
            r.age = self.prefixes.age
        prompts = sorted({r.ids for r in taken})
        reserve = min(max(min(r.params.max_tokens, self.context - len(r.ids)) for r in taken), 64)
        new = self._computed(prompts, reserve)
        at = {p: i for i, p in enumerate(new.requests)}
        pick = [at[r.ids] for r in taken]
        alone = (rows is None or len(rows) == 0) and self.decoder is not None and self.drafts is None
        if alone and spared(new.cache, group := torch.tensor(pick)) >= SPARED:
            behind(new.cache, group, new.length, reserve)
            new.length, new.filled, new.logits = torch.zeros_like(group), 0, new.logits[group.to(new.logits.device)]
        elif pick != list(range(len(new))):
            index = torch.tensor(pick, device=new.logits.device)
            select(new.cache, index)
            new.length, new.logits = new.length[pick], new.logits[index]
        n = len(taken)
        new.requests, new.fed, new.drafts = taken, [1] * n, [()] * n
        self.passes += n
        rows = new if rows is None or len(rows) == 0 else rows.join(new)
        self._joining = []
        return rows

    def _renew(self) -> None:
        """Nothing that was made with other weights is used."""
        if self.decoder is not None:
            self.decoder.renew()
        stamp = sum(w._version for w in self._weights)
        if stamp != self._stamp:
            self._stamp = stamp
            self.forget()

    def _computed(self, prompts: list[Ids], reserve: int) -> Rows:
        """Rows of the sorted, distinct `prompts`, in any order: what is stored or shared is not computed again."""
        if self._extends is not False:
            for level in stems(prompts, [n for _, n in map(self._stored, prompts)], WORTH):
                made = self._prefilled([(p, *self._stored(p)) for p in level], 0)
                for row, ids in enumerate(level):
                    self.prefixes.put(ids, made.pieces(row))
        asked = sorted(((p, *self._stored(p)) for p in prompts), key=lambda a: a[2] - len(a[0]))
        rows: Rows | None = None
        for bucket in buckets([len(p) - n for p, _, n in asked]):
            made = self._prefilled(asked[bucket], reserve)
            rows = made if rows is None else rows.join(made)
        assert rows is not None
        return rows

    def _stored(self, ids: Ids) -> tuple[Stored | None, int]:
        """What is stored of a prompt, and how many of its tokens need not be computed: never the last."""
        found, n = self.prefixes.longest(ids)
        n = min(n, len(ids) - 1)
        if n < LEAST or not self.extends:
            return None, 0
        return found, n

    @property
    def extends(self) -> bool:
        """Whether the model continues stored keys as it computes a whole prompt: tried on the model itself."""
        if self._extends is None:
            self._extends = self._try_extending()
        return self._extends

    @torch.inference_mode()
    def _try_extending(self) -> bool:
        if self.decoder is not None:
            self.decoder.renew()
        whole = tuple(i * 31 % self.vocabulary for i in range(3, 3 + min(24, self.context - 1)))
        asked = [whole, whole[: len(whole) // 2]]
        made = self._prefilled([(p, None, 0) for p in asked], 0)
        stored = [Stored(p, made.pieces(i)) for i, p in enumerate(asked)]
        past = [(p, s, len(p) // (i + 2)) for i, (p, s) in enumerate(zip(asked, stored))]
        gap = (self._prefilled(past, 0).logits - made.logits).abs().max() / made.logits.abs().max()
        return bool(gap <= (0.05 if self.autocast else TOLERANCE.get(self._weights[0].dtype, 0.05)))

    def _prefilled(self, asked: Sequence[tuple[Ids, Stored | None, int]], reserve: int) -> Rows:
        """One pass over prompts, behind so many tokens of what is stored of each."""
        prompts, past = [a[0] for a in asked], [a[2] for a in asked]
        left = [len(p) - n for p, n in zip(prompts, past)]
        columns, width, n = max(left), max(past), len(asked)
        made = Rows(prompts, None, width, torch.tensor(past), [1] * n, [()] * n, torch.empty(0))
        if not width:
            ids = torch.tensor([(0,) * (columns - len(p)) + p for p in prompts])
            made.length, made.filled = torch.tensor(left), columns
            made.cache = cache_of(self.module, room=columns + reserve) if self.cached else recompute.History()
            made.logits = self._forward(ids, made.length, made.cache, columns)
            return made
        ids = torch.tensor([p[k:] + (0,) * (columns - m) for p, k, m in zip(prompts, past, left)])
        layers = range(len(next(s.pieces for _, s, _ in asked if s)))
        made.cache = cache_of(
            self.module,
            [
                Layer.of([s.cut(i, k) if s else None for _, s, k in asked], width, width + columns + reserve)
                for i in layers
            ],
        )
        made.grow(columns)
        at = torch.tensor([row * columns + m - 1 for row, m in enumerate(left)])
        made.logits = self._forward(ids, made.length, made.cache, made.filled, None, at)
        made.retract([columns - m for m in left])
        made.close()
        return made

    @torch.inference_mode()
    def _step(self, rows: Rows) -> Rows:
        """Draw what follows each row's newest tokens, retire the finished, and compute the others' next logits."""
        last = self._take(rows)
        going = [i for i, r in enumerate(rows.requests) if not r.future.done()]
        if len(going) < LEAVE * len(rows):  # finished rows leave together: moving the cache costs more than they do
            last = [last[i] for i in rows.keep(going)]
        if going:
            self.passes += len(going)
            rows.drafts = self.drafts.propose(rows.requests) if self.drafts else [()] * len(rows)
            self._compute(rows, last)
        return rows

    def _take(self, rows: Rows) -> list[int]:
        """The newest token of each row, after drawing as many as its guesses foresaw, and one more."""
        ids, logp, support = _draw(rows.logits, rows.requests, rows.drafts)
        last, refused, at, ended = [], [], 0, []
        for row, (r, draft, fed) in enumerate(zip(rows.requests, rows.drafts, rows.fed)):
            taken = 0
            for guess in (*draft, -1) if draft else ALONE:
                if r.future.done():
                    break
                token = ids[at + taken]
                if r.push(token, logp[at + taken], support[at + taken]):
                    r.check(self.tokenizer)
                    if r.future.done():
                        ended.append(row)
                taken += 1
                if token != guess:
                    break
            if r.fresh is not None:
                r.hidden.append(r.fresh[:taken])
                r.fresh = None
            self.tokens += taken
            last.append(ids[at + max(taken, 1) - 1])
            refused.append(fed - max(taken, 1))
            at += 1 + len(draft)
        if any(refused):
            rows.retract(refused)
            if self.decoder is None or rows.loose:  # only the lean step may look past holes
                rows.close()
        self._resolved = bool(ended)
        for row in ended:
            self._ended(rows, row)
        return last

    def _ended(self, rows: Rows, row: int) -> None:
        """The last token of a row was drawn; it is not in the cache."""
        r = rows.requests[row]
        if self.drafts:
            self.drafts.ended(r)
        if r.params.continued and r.age == self.prefixes.age and self._extends is not False:
            self.prefixes.put((*r.ids, *r.drawn[:-1]), rows.pieces(row))

    def _compute(self, rows: Rows, last: list[int]) -> None:
        """The logits after each row's newest token, and after each of its guesses."""
        columns = 1 + max(map(len, rows.drafts))
        if columns == 1:
            ids = torch.tensor(last)[:, None]
        else:
            ids = torch.tensor([(t, *d) + (0,) * (columns - 1 - len(d)) for t, d in zip(last, rows.drafts)])
        rows.grow(columns)
        rows.fed = [columns] * len(rows)
        if columns == 1 and rows.used is None and not (self.drafts and self.drafts.hidden):
            rows.logits = self._forward(ids, rows.length, rows.cache, rows.filled)
        else:
            wanted = [i * columns + j for i, d in enumerate(rows.drafts) for j in range(1 + len(d))]
            rows.logits = self._forward(ids, rows.length, rows.cache, rows.filled, rows.mask, torch.tensor(wanted))
            if self._hidden is not None:
                shares = [1 + len(d) for d in rows.drafts]
                for r, states in zip(rows.requests, torch.split(self._hidden, shares)):
                    r.fresh = states

    def _forward(
        self, ids: Tensor, length: Tensor, cache: Any, filled: int, used: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """[rows, vocabulary] logits, at least float32, after the last column of `ids`; after columns `at` where given.

        length [rows]: tokens of each row, these included, in the `filled` columns (the last ones, or those in `used`)
        at [places]: flat index into `ids`
        """
        if self.decoder is not None and (filled > ids.shape[1] or cache.spread is not None):
            return self._decoded(self.decoder, ids, length, cache, filled, used, at)
        model, device = plain(self.module), self.device
        mask = right(length, filled).long()
        position = (mask.cumsum(1) - 1).clamp(0, self.context - 1)[:, -ids.shape[1] :]  # finished rows may run on
        with torch.autocast(device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            if isinstance(cache, recompute.History):
                cache.add(ids)
                logits = cache.logits(self.module, self.head, mask, self.context)
            else:
                inner = model if at is None else trunk(model)
                inputs = accepted(
                    inner,
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    position_ids=position.to(device),
                    logits_to_keep=1,
                )
                out = inner(**inputs, past_key_values=cache, use_cache=True)
                logits = out.logits[:, -1] if at is None else self._headed(out.last_hidden_state.flatten(0, 1), at)
        return logits.float() if logits.dtype != torch.float64 else logits

    def _decoded(
        self,
        decoder: Decoder,
        ids: Tensor,
        length: Tensor,
        cache: Any,
        filled: int,
        used: Tensor | None,
        at: Tensor | None,
    ) -> Tensor:
        columns = ids.shape[1]
        if columns == 1:
            position, bias = length - 1, self._edge.bias(length, filled) if used is None else _bias(used[:, None])
        else:
            seen = (right(length, filled) if used is None else used)[:, None]
            seen = seen & (torch.arange(filled)[None] <= torch.arange(filled - columns, filled)[:, None])
            position, bias = (length[:, None] - torch.arange(columns, 0, -1)).flatten(), _bias(seen)
        bias = None if bias is None else bias.to(self.device)
        position = position if cache.spread is None else position + cache.spread.before
        position = position.clamp(max=self.context - 1)  # finished rows may run on
        hidden = decoder.hidden(ids.flatten().to(self.device), position, cache.layers, bias, columns)
        return decoder.head(hidden) if at is None else self._headed(hidden, at)

    def _headed(self, hidden: Tensor, at: Tensor) -> Tensor:
        """Logits of the places `at`, whose hidden states are kept for a drafter that reads them."""
        assert self.head is not None  # without a head nothing is guessed or stored
        hidden = hidden[at.to(hidden.device)]
        self._hidden = hidden if self.drafts and self.drafts.hidden else None
        return self.head(hidden)


class _Edge:
    """Where right-aligned rows begin does not change while they run: their bias is made once for several steps."""

    def __init__(self, device: torch.device) -> None:
        self.begin, self.made, self.even = torch.zeros(0, dtype=torch.int64), torch.zeros(0), True
        self.device = device

    def bias(self, length: Tensor, filled: int) -> Tensor | None:
        """See `_bias`; None where all rows are full."""
        begin = filled - length
        if filled > self.made.shape[-1] or not torch.equal(begin, self.begin):
            room = filled + AHEAD
            self.begin, self.even = begin, not bool(begin.any())
            self.made = _bias(right(room - begin, room)[:, None]).to(self.device)
        return None if self.even else self.made[..., :filled]


def _bias(seen: Tensor) -> Tensor:
    """[rows, 1, columns, 1, filled] to be added to scores, from where [rows, columns, filled] each column looks."""
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None, :, None]


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
    hidden: list[Tensor] = field(default_factory=list)  # after each token but the last, where a drafter reads them
    age: int = -1  # of what is stored, when its prompt was computed
    fresh: Tensor | None = None  # of the last pass, before draws say how much of it holds

    def start(self, sampler: LocalSampler) -> None:
        p = self.params
        self.limit = min(p.max_tokens - p.begun, sampler.context - len(self.ids))
        self.before = list(self.ids[len(self.ids) - p.begun :])
        self.ends = frozenset((*sampler.end, *p.stop_ids))
        self.watched = bool(p.stop) or self.heard is not None
        self.cut = p.temperature > 0 and (p.top_k or p.top_p < 1)
        self.version = sampler.version
        stream = np.random.Generator(np.random.Philox(key=[p.seed & (2**64 - 1), 0]))
        self.uniform: list[float] = stream.random(p.begun + self.limit).tolist()[p.begun :] if p.temperature > 0 else []

    def next_uniform(self, ahead: int = 0) -> float:
        n = len(self.drawn) + ahead
        return self.uniform[n] if n < len(self.uniform) else 0.0

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
            self.finish("stop" if done else "length", tokenizer)

    def _stopped(self, tokenizer: Any) -> bool:
        if not self.params.stop:
            return False
        longest = max(len(s.encode()) for s in self.params.stop)  # a token is at least a byte
        tail = tokenizer.decode((self.before + self.drawn[-longest - 8 :])[-longest - 8 :])
        return any(s in tail for s in self.params.stop)

    def finish(self, reason: str, tokenizer: Any) -> None:
        if self.future.done():
            return
        text = tokenizer.decode([i for i in self.before + self.drawn if i not in self.ends])
        cut, p = tuple(self.support) if self.cut else None, self.params
        self.future.set_result(
            Completion(tuple(self.drawn), tuple(self.logp), reason, self.version, p.temperature, cut, p.allowed, text)
        )


def buckets(left: Sequence[int]) -> Iterator[slice]:
    """Prompts that are computed together, of which `left` tokens are, most first: little padding, not too many."""
    start = waste = 0
    for at, n in enumerate(left):
        waste += left[start] - n
        size = left[start] * (at + 1 - start)
        if at > start and (size > PASS or waste > max(WASTE, size // 4)):
            yield slice(start, at)
            start, waste = at, 0
    yield slice(start, len(left))


async def _settle(turns: int = 3) -> None:
    """Give every coroutine that is ready the chance to ask, so that requests of one moment run together."""
    for _ in range(turns):
        await asyncio.sleep(0)
