"""Guesses change how many passes an answer takes, and nothing else about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from temper.backends.base import Lora, SamplingParams
from temper.backends.keys import Layer, cache_of
from temper.backends.local_sampler import LocalSampler
from temper.backends.rows import Rows
from temper.backends.speculate import Ngrams, Speculation
from temper.errors import UserError
from temper.models import load, tiny
from tests.core.test_sampler import PROMPTS, VARIETY, many, model, one  # noqa: F401
from tests.models import builders


@dataclass
class Foreseeing:
    """Guesses the rows' own answers, known by (prompt, seed of the stream), with every `wrong`-th token another."""

    answers: dict[Any, tuple[int, ...]]
    wrong: int = 5
    asked: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def draft(self, requests: Sequence[Any], most: int) -> list[list[Any]]:
        self.asked.append(most)
        out = []
        for r in requests:
            n = len(r.drawn)
            known = self.answers[r.ids, r.params][n : n + most]
            spoilt = [(t + 1) % 512 if (n + j) % self.wrong == self.wrong - 1 else t for j, t in enumerate(known)]
            out.append([(t, 0) for t in (*spoilt, 1, 2, 3)][:most])
        return out

    def ended(self, request: Any) -> None:
        self.ends.append(len(request.drawn))


@dataclass
class Eager(Speculation):
    """Computes every guess, whether or not it pays."""

    def _best(self, odds: list[list[float]]) -> int:
        return max(map(len, odds))


@pytest.fixture
def double(model: str) -> Any:  # noqa: F811 - the fixture of test_sampler
    return load.load_model(model, dtype="float64", device="cpu")


def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


def both(module: Any, requests: list[Any], wrong: int = 5, most: int = 4, **options: Any) -> tuple[Any, Any, Any, Any]:
    """(answers without guesses, answers with them, the two samplers)."""
    plain = LocalSampler(module, tokenizer(), **options)
    before = many(plain, *requests)
    known = {(ids, p): c.ids for (ids, p), c in zip(requests, before)}
    guessing = LocalSampler(module, tokenizer(), drafts=Eager(Foreseeing(known, wrong), most=most, rows=999), **options)
    return before, many(guessing, *requests), plain, guessing


def same(a: Any, b: Any, tolerance: float) -> None:
    """`a` and `b` are the same completion, log-probs within `tolerance`."""
    assert a.logp == pytest.approx(b.logp, abs=tolerance)
    assert replace(a, logp=()) == replace(b, logp=())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
def test_nothing_changes_but_the_number_of_passes(model: str, dtype: str, tolerance: float) -> None:  # noqa: F811
    requests = [(ids, replace(p, seed=p.seed + k)) for k in range(3) for ids in PROMPTS for p in VARIETY]
    before, after, plain, guessing = both(load.load_model(model, dtype=dtype, device="cpu"), requests)
    for a, b in zip(before, after):
        same(b, a, tolerance)
    assert guessing.tokens == plain.tokens == plain.passes
    assert guessing.passes < 0.6 * plain.passes


PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 25),
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.8]),
    top_p=st.sampled_from([1.0, 0.7]),
    top_k=st.sampled_from([0, 3]),
    stop=st.sampled_from([(), ("a",), ("zq", "b")]),
    stop_ids=st.sampled_from([(), (97,), tuple(range(60, 90))]),
    allowed=st.sampled_from([None, tuple(range(95, 110))]),
    seed=st.integers(0, 1 << 20),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(PROMPTS), PARAMS), min_size=1, max_size=12),
    st.integers(2, 6),
    st.integers(1, 7),
    st.sampled_from([2, 5, 64]),
)
def test_any_mixture_of_requests_gets_what_it_gets_without_guesses(
    double: Any, requests: list[Any], wrong: int, most: int, max_rows: int
) -> None:
    """Rows join, finish in the middle of a draft and wait for one another; float64."""
    before, after, plain, guessing = both(double, requests, wrong, most, max_rows=max_rows)
    for a, b in zip(before, after):
        same(b, a, 1e-11)
    assert guessing.tokens == plain.tokens and guessing.passes <= plain.passes


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "qwen3"])
def test_through_the_models_own_forward(name: str, tmp_path: Any) -> None:
    """Sliding windows and learned positions know nothing of holes."""
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(builders.save(name, tmp_path), dtype=torch.float32).eval()
    asked = [(ids, SamplingParams(max_tokens=40 - 7 * k, seed=k)) for k, ids in enumerate(PROMPTS)]
    plain = LocalSampler(module, tokenizer())
    plain.decoder = None
    before = many(plain, *asked)
    known = {(ids, p): c.ids for (ids, p), c in zip(asked, before)}
    guessing = LocalSampler(module, tokenizer(), drafts=Eager(Foreseeing(known, 3), most=4))
    guessing.decoder = None
    for a, b in zip(before, many(guessing, *asked)):
        same(b, a, 5e-5)
    assert guessing.passes < plain.passes


def test_adapters_take_part(double: Any) -> None:
    adapted = load.add_lora(double, Lora(4, 8))
    before, after, plain, guessing = both(adapted, [(ids, SamplingParams(max_tokens=20)) for ids in PROMPTS])
    assert [c.ids for c in after] == [c.ids for c in before] and guessing.passes < plain.passes


def test_a_listener_hears_every_token_in_order(double: Any) -> None:
    p, heard = SamplingParams(max_tokens=17, seed=4), list[int]()
    before, _, _, guessing = both(double, [(PROMPTS[0], p)])
    asyncio.run(guessing.sample(PROMPTS[0], p, heard.append))
    assert tuple(heard) == before[0].ids


def test_requests_may_be_cancelled_between_guesses(double: Any) -> None:
    asked = [(PROMPTS[n % 4], SamplingParams(max_tokens=30, seed=n)) for n in range(8)]
    before, _, _, guessing = both(double, asked)

    async def go() -> list[Any]:
        tasks = [asyncio.ensure_future(guessing.sample(ids, p)) for ids, p in asked]
        for _ in range(9):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    out = asyncio.run(go())
    assert all(isinstance(c, asyncio.CancelledError) for c in out[::2])
    assert [c.ids for c in out[1::2]] == [c.ids for c in before[1::2]]


# how much is saved -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "wrong", "passes"), [(4, 99, 5), (4, 1, 20), (4, 2, 11), (0, 99, 20), (30, 99, 2)])
def test_passes_by_hand(double: Any, most: int, wrong: int, passes: int) -> None:
    """20 tokens. The prompt's pass gives 1; then 1 + guesses that hold: 5+5+5+4; 1 each; (wrong at 1, 3, …) 2 each."""
    _, after, plain, guessing = both(double, [(PROMPTS[0], SamplingParams(max_tokens=20, seed=1))], wrong, most)
    assert len(after[0].ids) == 20 and plain.passes == 20
    assert guessing.passes == passes


def test_no_guess_reaches_over_the_end(double: Any) -> None:
    """A context with room for three: the last pass is asked for what still fits, and the limit is kept."""
    requests = [(PROMPTS[1], SamplingParams(max_tokens=50, seed=2))]
    plain = LocalSampler(double, tokenizer())
    plain.context = 7
    before = many(plain, *requests)
    drafter = Foreseeing({requests[0]: before[0].ids}, 99)
    guessing = LocalSampler(double, tokenizer(), drafts=Eager(drafter))
    guessing.context = 7
    assert many(guessing, *requests) == [replace(before[0], logp=pytest.approx(before[0].logp, abs=1e-11))]
    assert len(before[0].ids) == 3 and guessing.passes == 2 and drafter.ends == [3]


def test_an_end_inside_a_draft_ends_it(double: Any) -> None:
    free = one(LocalSampler(double, tokenizer()), PROMPTS[1], max_tokens=12, seed=3)
    p = SamplingParams(max_tokens=12, seed=3, stop_ids=(free.ids[4],))
    drafter = Foreseeing({(PROMPTS[1], p): free.ids}, 99)
    sampler = LocalSampler(double, tokenizer(), drafts=Eager(drafter, most=9))
    c = many(sampler, (PROMPTS[1], p))[0]
    assert c.ids == free.ids[: free.ids.index(free.ids[4]) + 1] and c.finish == "stop" and sampler.passes == 2


# when to guess -----------------------------------------------------------------------------------------------------


def test_the_number_of_guesses_is_what_makes_most_tokens_for_the_cost() -> None:
    s = Speculation(knee=4)
    # one row: 1 / 5, 1.9 / 6, 2.6 / 7, 2.8 / 8
    assert s._best([[0.9, 0.7, 0.2]]) == 2
    assert s._best([[0.1, 0.0]]) == 0  # 1.1 / 6 < 1 / 5
    assert s._best([[0.3]]) == 0 and s._best([[0.4]]) == 1  # 1.15 · 1 / 5 lies between 1.3 / 6 and 1.4 / 6
    # four rows, one of which can be foreseen: 4 / 8 against 5 / 12
    assert s._best([[1.0], [], [], []]) == 0
    assert s._best([[1.0]] * 4) == 1  # 8 / 12
    assert s._best([[], []]) == 0


def test_rates_are_learned_from_guesses_that_were_not_computed() -> None:
    class Fixed(Foreseeing):
        def draft(self, requests: Sequence[Any], most: int) -> list[list[Any]]:
            return [[(7, "always"), (8, "never")] for _ in requests]

    class Row:
        ids, limit = (1,), 1000

        def __init__(self) -> None:
            self.drawn: list[int] = []

    s, row = Speculation(Fixed({}), knee=2, rows=1), Row()
    proposed = []
    for _ in range(40):
        (draft,) = s.propose([row])
        proposed.append(draft)
        row.drawn += [7, 9]
    assert proposed[-1] == (7,)
    assert s.rates["always"].value > 0.9 and s.rates["never"].value < 0.1
    assert s.propose([row, row]) == [(), ()]  # more rows than it may guess for


def test_where_nothing_holds_it_looks_ever_more_rarely() -> None:
    class Wrong(Foreseeing):
        def draft(self, requests: Sequence[Any], most: int) -> list[list[Any]]:
            self.asked.append(most)
            return [[(1, 0)] * most for _ in requests]

    class Row:
        ids, limit, drawn = (1,), 10**6, [2] * 1000

    drafter = Wrong({})
    s = Speculation(drafter)
    for n in range(400):
        Row.drawn = [2] * n
        s.propose([Row()])
    assert len(drafter.asked) < 60
    assert s.propose([Row()] * 9) == [()] * 9
    s.ended(Row())
    assert drafter.ends == []  # and remembers nothing


# n-grams -----------------------------------------------------------------------------------------------------------


class Row:
    """A request as drafters see it."""

    def __init__(self, ids: tuple[int, ...], drawn: Sequence[int] = (), uniform: Sequence[float] = ()):
        self.ids, self.drawn, self.uniform = ids, list(drawn), list(uniform)


def tokens(guesses: list[Any]) -> list[int]:
    return [t for t, _ in guesses]


def test_a_prompt_is_looked_up() -> None:
    n = Ngrams(orders=(2, 1))
    assert tokens(n.draft([Row((1, 2, 3, 4, 9, 1, 2))], 4)[0]) == [3, 4, 9, 1]
    assert tokens(n.draft([Row((1, 2, 3, 4, 8, 1), [2])], 2)[0]) == [3, 4]  # across the end of the prompt
    assert n.draft([Row((1, 2, 3))], 4) == [[]] and n.draft([], 4) == []


def test_what_followed_before_is_drawn_with_the_rows_own_number() -> None:
    n, prompt = Ngrams(orders=(2, 1)), (5, 6)
    for token in (10, 20, 10, 30):
        n.ended(Row(prompt, [token, 40]))
    first = lambda u: tokens(n.draft([Row(prompt, [], [u])], 1)[0])  # noqa: E731
    assert [first(u) for u in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [[10], [10], [20], [20], [30], [30]]
    assert tokens(n.draft([Row(prompt)], 2)[0]) == [10, 40]  # greedy: the most frequent
    kinds = [kind for _, kind in n.draft([Row(prompt, [], [0.0, 0.0])], 2)[0]]
    assert kinds == [(2, 0, False), (2, 0, True)]  # (order, the prompt's own table, all agree)


def test_other_prompts_answers_help_where_its_own_do_not() -> None:
    n = Ngrams(orders=(2,))
    n.ended(Row((5, 6), [7, 8, 9]))
    assert n.draft([Row((1, 2), [7, 8], [0.5] * 9)], 3)[0] == [(9, (2, 1, True))]
    n.ended(Row((1, 2), [7, 8, 3]))
    assert n.draft([Row((1, 2), [7, 8], [0.5] * 9)], 1)[0] == [(3, (2, 0, True))]


def test_each_token_is_read_once() -> None:
    n, row = Ngrams(orders=(1,)), Row((1,), [2])
    n.draft([row], 1)
    row.drawn += [3]
    n.draft([row], 1)
    n.ended(row)
    assert n.tables[(1,)].after == {(1,): [2], (2,): [3]} and n.held == 3


def test_memory_is_bounded() -> None:
    n = Ngrams(orders=(2, 1), memory=100)
    for k in range(500):
        n.ended(Row((k, k + 1), [k % 7] * 8))
        assert n.held <= 100 and n.any.size <= 108
    assert n.held == sum(t.size for t in n.tables.values()) and (499, 500) in n.tables
    for _ in range(200):
        n.ended(Row((1, 2), [3]))
    assert max(len(t) for t in n.tables[(1, 2)].after.values()) <= 32


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Ngrams(orders=(1, 2)), "orders must be different positive lengths, longest first"),
        (lambda: Ngrams(orders=()), "orders must"),
        (lambda: Ngrams(memory=0), "memory must be at least 1"),
        (lambda: Speculation(most=-1), "most must be at least 0"),
        (lambda: Speculation(knee=0), "knee must be at least 1"),
    ],
)
def test_settings_are_checked(make: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        make()


def test_n_grams_save_passes_on_a_second_visit(double: Any) -> None:
    """The same prompts again, greedily: everything can be foreseen."""
    asked = [(ids, SamplingParams(max_tokens=40, temperature=0.0)) for ids in PROMPTS[:2]]
    sampler = LocalSampler(double, tokenizer(), drafts=Speculation())
    first = many(sampler, *asked)
    passes = sampler.passes
    assert [c.ids for c in many(sampler, *asked)] == [c.ids for c in first]
    assert sampler.passes - passes < 40  # of 80


# rows --------------------------------------------------------------------------------------------------------------


def filled_rows(lengths: list[int], columns: int) -> Rows:
    """Rows whose keys are 100 · row + column."""
    cache = cache_of(tiny.tiny_model(), room=columns + 8)
    n = len(lengths)
    for layer in cache.layers:
        keys = (100 * torch.arange(n)[:, None] + torch.arange(columns)).view(n, 1, columns, 1).double()
        layer.update(keys, keys)
    return Rows(list(range(n)), cache, columns, torch.tensor(lengths), [1] * n, [()] * n, torch.zeros(n, 4))


def kept(rows: Rows) -> list[list[int]]:
    layer: Layer = rows.cache.layers[0]
    keys = layer.seen()[0][:, 0, :, 0]
    assert layer.filled == rows.filled and rows.mask.shape == (len(rows), rows.filled)
    assert rows.mask.sum(1).tolist() == rows.length.tolist()
    return [keys[i][rows.mask[i]].int().tolist() for i in range(len(rows))]


def test_columns_are_taken_back_and_holes_closed() -> None:
    rows = filled_rows([5, 4, 5], 5)
    rows.retract([1, 1, 1])
    assert rows.filled == 4 and rows.used is None
    rows.retract([0, 2, 1])
    assert rows.filled == 4 and kept(rows) == [[0, 1, 2, 3], [101], [200, 201, 202]]
    rows.grow(1)
    for layer in rows.cache.layers:
        layer.update(*(torch.tensor([70.0, 71.0, 72.0]).double().view(3, 1, 1, 1),) * 2)
    assert kept(rows) == [[0, 1, 2, 3, 70], [101, 71], [200, 201, 202, 72]]
    rows.retract([1, 0, 0])
    assert kept(rows) == [[0, 1, 2, 3], [101, 71], [200, 201, 202, 72]]
    assert rows.keep([1, 2]) == [2, 1]  # the last takes the place of the one that leaves
    assert rows.used is None and rows.filled == 4 and kept(rows) == [[200, 201, 202, 72], [101, 71]]
    assert not rows.loose


def test_rows_with_many_holes_are_loose() -> None:
    rows = filled_rows([30, 30], 30)
    rows.retract([17, 0])
    assert not rows.loose  # one row is full
    rows.retract([0, 17])
    assert rows.loose and kept(rows) == [list(range(13)), list(range(100, 113))]
    rows.close()
    assert rows.filled == 13 and kept(rows) == [list(range(13)), list(range(100, 113))]
