"""The local sampler: exact ids and log-probs of the distribution sampled from, whatever else runs beside a request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch

from temper.backends.base import ContextFull, SamplingParams
from temper.backends.draw import inverse
from temper.backends.local_sampler import LocalSampler
from temper.episode import Completion
from temper.errors import UserError
from temper.models import load, tiny
from tests.seams.toys import save_toy_model

PROMPTS = [(72, 105), (97, 98, 99, 100), (65, 66, 67), (49, 43, 49, 61)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Logits that are not flat, so that truncation and greedy choices are clear, and that depend on the context."""
    folder = tmp_path_factory.mktemp("sharp")
    module: Any = load.load_model(save_toy_model(folder, seed=3, sharpness=15.0))
    for name, weights in module.named_parameters():
        if "down_proj" in name or "v_proj" in name:
            weights.data *= 300.0
    tiny.save_tiny(module, folder)
    return str(folder)


@pytest.fixture
def sampler(model: str) -> LocalSampler:
    return LocalSampler(load.load_model(model, device="cpu"), load.load_tokenizer(model))


def forwards(sampler: LocalSampler, log: list[tuple[int, int]]) -> None:
    """Note the shape (rows, columns) of everything that the model computes."""
    inner: Callable[..., Any] = sampler._forward

    def noting(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        log.append((ids.shape[0], ids.shape[1]))
        out: torch.Tensor = inner(ids, *rest)
        return out

    sampler._forward = noting  # type: ignore[method-assign]


def many(sampler: LocalSampler, *requests: tuple[tuple[int, ...], SamplingParams]) -> list[Completion]:
    async def go() -> list[Completion]:
        return list(await asyncio.gather(*[sampler.sample(ids, p) for ids, p in requests]))

    return asyncio.run(go())


def one(sampler: LocalSampler, ids: tuple[int, ...], **params: Any) -> Completion:
    return many(sampler, (ids, SamplingParams(**params)))[0]


def expected(sampler: LocalSampler, ids: tuple[int, ...], c: Completion, p: SamplingParams) -> list[float]:
    """Log-probs of a completion by one plain forward over all of it, with truncation written out again."""
    with torch.inference_mode():
        whole = torch.tensor([[*ids, *c.ids]])
        logits = sampler.module(input_ids=whole).logits[0, len(ids) - 1 : -1].double()
    out = []
    for row, token in zip(logits / (p.temperature or 1.0), c.ids):
        if p.allowed is not None:
            keep = torch.full_like(row, -torch.inf)
            keep[list(p.allowed)] = row[list(p.allowed)]
            row = keep
        if p.temperature > 0:
            probs, order = row.softmax(0).sort(descending=True, stable=True)
            kept = torch.ones(len(order), dtype=torch.bool)
            if p.top_k:
                kept[p.top_k :] = False
                probs = torch.where(kept, probs, 0) / probs[kept].sum()
            if p.top_p < 1:
                kept &= probs.cumsum(0) - probs < p.top_p
            row = torch.full_like(row, -torch.inf).index_put((order[kept],), row[order[kept]])
        out.append(float(row.log_softmax(0)[token]))
    return out


VARIETY = [
    SamplingParams(max_tokens=9, seed=1),
    SamplingParams(max_tokens=5, temperature=0.5, seed=2),
    SamplingParams(max_tokens=12, temperature=1.7, top_p=0.8, seed=3),
    SamplingParams(max_tokens=3, top_k=4, seed=4),
    SamplingParams(max_tokens=8, temperature=0.0),
    SamplingParams(max_tokens=7, allowed=(97, 98, 99, 100), seed=5),
    SamplingParams(max_tokens=7, allowed=(97, 98, 99), top_k=5, top_p=0.95, seed=6),
    SamplingParams(max_tokens=6, top_k=7, top_p=0.6, temperature=1.2, seed=7),
    SamplingParams(max_tokens=6, allowed=(97, 98, 99), top_k=9, seed=8),
]


@pytest.mark.parametrize("p", VARIETY, ids=range(len(VARIETY)))
def test_log_probs_are_those_of_the_distribution_sampled_from(sampler: LocalSampler, p: SamplingParams) -> None:
    for ids in PROMPTS:
        c = many(sampler, (ids, p))[0]
        assert c.logp == pytest.approx(expected(sampler, ids, c, p), abs=1e-5)
        assert c.temperature == p.temperature and c.allowed == p.allowed
        assert p.allowed is None or set(c.ids) <= set(p.allowed)
        assert (c.support is None) == (p.temperature == 0 or (not p.top_k and p.top_p == 1))
        if c.support is not None:
            assert len(c.support) == len(c.ids) and all(i in s for i, s in zip(c.ids, c.support))
            assert all(len(s) <= (p.top_k or 512) for s in c.support)
            assert p.allowed is None or all(set(s) <= set(p.allowed) for s in c.support)


def test_neighbours_change_nothing(sampler: LocalSampler) -> None:
    requests = [(ids, p) for ids in PROMPTS for p in VARIETY]
    together = many(sampler, *requests)
    alone = [many(sampler, r)[0] for r in requests]
    for a, b in zip(together, alone):
        assert a.ids == b.ids and a.logp == pytest.approx(b.logp, abs=1e-5) and a.finish == b.finish
    sampler.max_rows = 5  # and neither does waiting for room
    for a, b in zip(many(sampler, *requests), alone):
        assert a.ids == b.ids and a.logp == pytest.approx(b.logp, abs=1e-5)


def test_joiners_in_the_middle_change_nothing(sampler: LocalSampler) -> None:
    p, late = SamplingParams(max_tokens=30, seed=11), SamplingParams(max_tokens=6, seed=12)
    log: list[tuple[int, int]] = []

    async def go() -> tuple[Completion, Completion]:
        first = asyncio.ensure_future(sampler.sample(PROMPTS[1], p))
        while len(log) < 10 and not first.done():
            await asyncio.sleep(0)
        return await asyncio.gather(first, sampler.sample(PROMPTS[0], late))

    forwards(sampler, log)
    first, second = asyncio.run(go())
    assert (2, 1) in log  # they did run side by side
    assert first.ids == many(sampler, (PROMPTS[1], p))[0].ids
    assert second.ids == many(sampler, (PROMPTS[0], late))[0].ids


def test_a_shared_prompt_is_computed_once(sampler: LocalSampler) -> None:
    log: list[tuple[int, int]] = []
    forwards(sampler, log)
    prompt = tuple(range(40, 80))
    many(sampler, *[(prompt, SamplingParams(max_tokens=4, seed=s)) for s in range(16)])
    assert log[0] == (1, 40)
    assert log[1:] == [(16, 1)] * 3  # the last token of each answer needs no forward


def test_finished_rows_leave(sampler: LocalSampler) -> None:
    log: list[tuple[int, int]] = []
    forwards(sampler, log)
    params = [SamplingParams(max_tokens=2 if s < 9 else 20, temperature=0.0) for s in range(10)]
    out = many(sampler, *[((65 + s,), p) for s, p in enumerate(params)])
    assert len(out[9].ids) == 20 and all(c.finish == "length" for c in out)
    assert log[1:] == [(10, 1), *[(1, 1)] * 18]
    assert sampler.tokens == 9 * 2 + 20


def test_greedy_is_transformers_greedy(sampler: LocalSampler) -> None:
    module: Any = sampler.module
    out = many(sampler, *[(ids, SamplingParams(max_tokens=16, temperature=0.0)) for ids in PROMPTS])
    for ids, c in zip(PROMPTS, out):
        theirs = module.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=16)[0, len(ids) :]
        assert c.ids == tuple(theirs.tolist())


def test_seeds(sampler: LocalSampler) -> None:
    a, b, c = many(sampler, *[(PROMPTS[1], SamplingParams(max_tokens=24, temperature=2.0, seed=s)) for s in (5, 5, 6)])
    assert a.ids == b.ids != c.ids


def test_what_ends_an_answer(sampler: LocalSampler) -> None:
    free = one(sampler, PROMPTS[1], max_tokens=40, temperature=0.0)
    assert free.finish == "length" and len(free.ids) == 40
    stop_id = next(i for i in free.ids if i != free.ids[0])
    by_id = one(sampler, PROMPTS[1], max_tokens=40, temperature=0.0, stop_ids=(stop_id,))
    assert by_id.ids == free.ids[: free.ids.index(stop_id) + 1] and by_id.finish == "stop"
    assert stop_id not in sampler.tokenizer.encode(by_id.text, add_special_tokens=False)  # in the ids, not in the text
    end = next(i for i in range(512) if i in sampler.end)
    ended = one(sampler, PROMPTS[1], allowed=(end,), max_tokens=5)
    assert ended.ids == (end,) and ended.finish == "stop" and ended.text == "" and ended.logp == (0.0,)


@pytest.mark.parametrize("text", ["abcd", "ba", "∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑∑"], ids=["ascii", "short", "bytes"])
def test_stop_strings_end_it_where_they_appear(sampler: LocalSampler, text: str) -> None:
    """The model is replaced by one that spells the alphabet; a stop string may span many tokens."""
    spelled = sampler.tokenizer.encode("xx" + text + "ababab" * 20, add_special_tokens=False)
    say_only(sampler, spelled)
    c = one(sampler, (65,), max_tokens=200, stop=("zzz", text))
    assert c.finish == "stop" and c.text == ("xx" + text)
    assert list(c.ids) == spelled[: len(c.ids)]


def say_only(sampler: LocalSampler, ids: list[int]) -> None:
    """The next token is `ids[n]` with certainty, where n tokens have been said."""

    def forward(_: Any, length: torch.Tensor, cache: Any, filled: int) -> torch.Tensor:
        for layer in cache.layers:
            layer.lazy_initialization(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        logits = torch.full((len(length), 512), -1e9)
        logits[:, ids[int(length[0]) - 1]] = 0.0
        return logits

    sampler._forward = forward  # type: ignore[method-assign]


def test_frequencies_are_the_distribution(sampler: LocalSampler) -> None:
    """Chi-square over 20 ids, 4 000 fixed seeds: a wrong temperature, truncation or transform would be far outside."""
    allowed = tuple(range(97, 117))
    p = SamplingParams(max_tokens=1, temperature=1.3, top_p=0.95, allowed=allowed)
    draws = many(sampler, *[(PROMPTS[1], SamplingParams(**{**vars(p), "seed": s})) for s in range(4000)])
    counts = Counter(c.ids[0] for c in draws)
    probability = {c.ids[0]: float(torch.tensor(c.logp[0]).exp()) for c in draws}
    support = draws[0].support[0] if draws[0].support else ()
    assert set(counts) <= set(support) < set(allowed)
    assert sum(probability.values()) == pytest.approx(1.0, abs=0.01)
    chi = sum((counts[i] - 4000 * q) ** 2 / (4000 * q) for i, q in probability.items())
    freedom = len(probability) - 1
    assert freedom >= 5 and chi < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("n", [7, 8256, 9000])
def test_a_large_vocabulary_is_searched_in_two_steps(n: int) -> None:
    """The first token up to which more than the share u lies, also where blocks and tokens have no mass at all."""
    p = torch.rand(40, n, generator=torch.Generator().manual_seed(0)).softmax(-1)
    p[:20, n // 3 : 2 * n // 3] = 0.0
    p[5] = 0.0
    p[5, n - 1] = 1.0
    u = torch.rand(40, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u[0], u[1] = 0.0, 1 - 1e-16
    total = p.double().cumsum(-1)
    plain = (total <= u * total[:, -1:]).sum(-1).clamp(max=n - 1)
    assert inverse(p, u).squeeze(1).tolist() == plain.tolist()


# at the edges ----------------------------------------


def test_a_full_context(sampler: LocalSampler) -> None:
    sampler.context = 12
    c = one(sampler, tuple(range(40, 50)), max_tokens=50)
    assert len(c.ids) == 2 and c.finish == "length"
    with pytest.raises(ContextFull, match="a context of 12 tokens leaves no room in a model of 12 positions"):
        one(sampler, tuple(range(40, 52)))
    assert issubclass(ContextFull, ValueError)


def test_a_row_may_fill_the_context_of_learned_positions() -> None:
    """Finished rows stay for a while beside the others: they must not ask for a position that is not there."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=512, n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_id=511)
    module = load._ready(GPT2LMHeadModel(config), "cpu", False)
    sampler = LocalSampler(module, tiny.tiny_tokenizer())
    short = SamplingParams(max_tokens=14, allowed=tuple(range(97, 110)))
    ids = [(65,) * (12 if n == 0 else 2) for n in range(10)]
    out = many(sampler, *[(i, short) for i in ids])
    assert [len(c.ids) for c in out] == [4] + [14] * 9


@pytest.mark.parametrize(
    ("ids", "params", "why"),
    [
        ((), {}, "there is nothing to continue"),
        ((5000,), {}, "token id 5000 is outside the model's vocabulary of 512"),
        ((65,), {"allowed": (97, 600)}, "token id 600 is outside the model's vocabulary of 512"),
    ],
)
def test_a_request_that_cannot_be_served_harms_no_other(
    sampler: LocalSampler, ids: tuple[int, ...], params: dict[str, Any], why: str
) -> None:
    async def go() -> list[Any]:
        good = sampler.sample(PROMPTS[0], SamplingParams(max_tokens=4))
        return await asyncio.gather(good, sampler.sample(ids, SamplingParams(**params)), return_exceptions=True)

    good, bad = asyncio.run(go())
    assert len(good.ids) == 4 and isinstance(bad, ValueError) and why in str(bad)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("temperature", -1.0), ("top_p", 0.0), ("top_p", 1.5), ("top_k", -1), ("allowed", ())],
)
def test_sampling_parameters_are_checked(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field} must"):
        SamplingParams(**{field: value})
    with pytest.raises(UserError, match="unknown sampling parameter 'temprature'; did you mean temperature"):
        SamplingParams().but(temprature=1.0)


def test_three_hundred_coroutines_of_several_turns(sampler: LocalSampler) -> None:
    async def play(n: int) -> int:
        ids: tuple[int, ...] = (65 + n % 26,)
        for turn in range(3):
            ids += (await sampler.sample(ids, SamplingParams(max_tokens=1 + n % 4, seed=3 * n + turn))).ids
        return len(ids)

    sampler.max_rows = 64

    async def go() -> list[int]:
        return list(await asyncio.gather(*map(play, range(300))))

    lengths = asyncio.run(go())
    assert len(lengths) == 300 and min(lengths) >= 4 and not sampler._waiting


def cancelling(sampler: LocalSampler, when: str) -> list[Any]:
    """Ten requests, of which the even ones are cancelled: while they wait, while they run, or all at once."""

    async def go() -> list[Any]:
        tasks = [
            asyncio.ensure_future(sampler.sample(PROMPTS[n % 4], SamplingParams(max_tokens=20, seed=n)))
            for n in range(10)
        ]
        for _ in range({"waiting": 1, "running": 12}[when]):
            await asyncio.sleep(0)
        for n in range(0, 10, 2):
            tasks[n].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(go())


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_cancelled_coroutines_do_not_break_the_others(sampler: LocalSampler, when: str) -> None:
    out = cancelling(sampler, when)
    assert all(isinstance(c, asyncio.CancelledError) for c in out[::2])
    free = many(sampler, *[(PROMPTS[n % 4], SamplingParams(max_tokens=20, seed=n)) for n in range(1, 10, 2)])
    assert [c.ids for c in out[1::2]] == [c.ids for c in free]


def test_requests_cancelled_before_they_are_admitted(sampler: LocalSampler) -> None:
    """Everything that waited is gone when the running rows make room."""

    async def go() -> Completion:
        sampler.max_rows = 1
        first = asyncio.ensure_future(sampler.sample(PROMPTS[0], SamplingParams(max_tokens=12, seed=1)))
        rest = [asyncio.ensure_future(sampler.sample(p, SamplingParams())) for p in PROMPTS]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in rest:
            task.cancel()
        await first
        return await sampler.sample(PROMPTS[1], SamplingParams(max_tokens=3))

    assert len(asyncio.run(go()).ids) == 3


def test_an_error_in_the_model_reaches_every_coroutine_and_the_sampler_lives_on(sampler: LocalSampler) -> None:
    inner = sampler._forward

    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    async def go() -> list[Any]:
        ask: Callable[[], Coroutine[Any, Any, Completion]] = lambda: sampler.sample((65,), SamplingParams(max_tokens=2))  # noqa: E731
        sampler._forward = broken  # type: ignore[method-assign]
        failed = await asyncio.gather(*[ask() for _ in range(3)], return_exceptions=True)
        sampler._forward = inner  # type: ignore[method-assign]
        return [*failed, await ask()]

    *failed, last = asyncio.run(go())
    assert [str(e) for e in failed] == ["out of memory"] * 3 and len(last.ids) == 2
