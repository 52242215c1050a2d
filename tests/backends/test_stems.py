"""What several rows begin with is looked at once for all of them, and every row sees what it saw."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.backends import local_sampler, rows
from temper.backends.base import SamplingParams
from temper.backends.keys import Layer
from temper.backends.local_sampler import LocalSampler
from temper.models import layout, load
from temper.models.decoder import Decoder
from temper.models.stems import Spread, Stem
from tests.backends.test_prefixes import model, same, sampler_of, talk  # noqa: F401

GROUPS = [tuple(range(65 + k, 65 + k + n)) for k, n in enumerate((40, 37, 40))]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(1, 3), st.integers(0, 99))
def test_both_parts_are_one_softmax(group: list[int], own: int, seed: int) -> None:
    """Three beginnings of 5, 3 and 4 tokens, two heads with three queries each; scores so large that sums overflow."""
    make, n = torch.Generator().manual_seed(seed), len(group)
    keys, values = (torch.randn(3, 2, 5, 4, generator=make, dtype=torch.float64) for _ in range(2))
    k, v = (torch.randn(n, 2, own, 4, generator=make, dtype=torch.float64) for _ in range(2))
    q, length = 300 * torch.randn(n, 6, 4, generator=make, dtype=torch.float64), torch.tensor([5, 3, 4])
    stem = Stem(keys, values, Spread(torch.tensor(group), length, 5, q.device))
    scores = torch.bmm(q.reshape(n * 2, 3, 4), k.flatten(0, 1).transpose(1, 2))
    got = stem.merged(q, scores, v.flatten(0, 1))
    for i, g in enumerate(group):
        for h in range(2):
            begin = 5 - int(length[g])
            ks, vs = torch.cat([keys[g, h, begin:], k[i, h]]), torch.cat([values[g, h, begin:], v[i, h]])
            expected = torch.softmax(q[i, 3 * h : 3 * h + 3] @ ks.T, -1) @ vs
            torch.testing.assert_close(got[i, 3 * h : 3 * h + 3], expected, atol=1e-12, rtol=1e-12)


def pair(folder: str, monkeypatch: pytest.MonkeyPatch, dtype: str) -> tuple[LocalSampler, list[int]]:
    """A sampler that decodes from the weights, and a list that gets the rows of every merged part."""
    module = load.load_model(folder, dtype=dtype, device="cpu")
    sampler = sampler_of(module)
    sampler.decoder = Decoder(module, layout.head_of(module))  # in float64 too, where the model rounds its norms
    merged, real = list[int](), Stem.merged

    def noting(self: Stem, q: torch.Tensor, *rest: Any) -> torch.Tensor:
        merged.append(len(q))
        return real(self, q, *rest)

    monkeypatch.setattr(Stem, "merged", noting)
    return sampler, merged


def least(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for where in (local_sampler, rows):
        monkeypatch.setattr(where, "SPARED", size)


def answers(sampler: LocalSampler, asked: list[Any], late: int = 0) -> list[Any]:
    """Of all but the last `late`, which are asked for when the others run."""

    async def go() -> list[Any]:
        early = [asyncio.ensure_future(sampler.sample(ids, p)) for ids, p in asked[: len(asked) - late]]
        before = sampler.passes
        while late and sampler.passes < before + 3 * len(early):
            await asyncio.sleep(0)
        return list(await asyncio.gather(*early, *(sampler.sample(ids, p) for ids, p in asked[len(early) :])))

    return asyncio.run(go())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
@pytest.mark.parametrize("late", [0, 2])
def test_answers_are_those_of_rows_with_copies(
    model: str,  # noqa: F811 - the fixture of test_prefixes
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    tolerance: float,
    late: int,
) -> None:
    """Prompts and answers of different lengths, rows that finish, rows that join."""
    sampler, merged = pair(model, monkeypatch, dtype)
    asked = [(GROUPS[k % 3], SamplingParams(max_tokens=4 + 5 * (k % 4), seed=k)) for k in range(14)]
    least(monkeypatch, 1 << 60)
    plain = answers(sampler, asked, late)
    assert not merged
    least(monkeypatch, 0)
    same(answers(sampler, asked, late), plain, tolerance)
    assert merged[0] == 14 - late and (late > 0) == (merged[-1] == 14 - late and len(merged) < 8)
    few = merged.copy()
    least(monkeypatch, 3000 if dtype == "float32" else 6000)  # where few are left, they get copies
    same(answers(sampler, asked, late), plain, tolerance)
    assert 0 < len(merged) - len(few) <= len(few) and (late > 0) == (len(merged) == 2 * len(few))


def test_a_context_behind_a_shared_beginning_is_stored_whole(
    model: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, merged = pair(model, monkeypatch, "float64")

    def go() -> list[Any]:
        async def all_of_them() -> list[Any]:
            return list(await asyncio.gather(*(talk(sampler, GROUPS[n % 2], n) for n in range(8))))

        return [c for said in asyncio.run(all_of_them()) for c in said]

    least(monkeypatch, 0)
    shared = go()
    assert merged and len(sampler.prefixes) >= 8
    sampler.forget()
    least(monkeypatch, 1 << 60)
    same(shared, go(), 1e-10)


def test_guesses_and_models_with_a_forward_of_their_own_have_copies(
    model: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, merged = pair(model, monkeypatch, "float32")
    least(monkeypatch, 0)
    sampler.decoder = None
    asked = [(GROUPS[0], SamplingParams(max_tokens=3, seed=k)) for k in range(4)]
    assert len(answers(sampler, asked)) == 4 and not merged


def test_cancelled_rows_leave_the_others_alone(model: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    sampler, merged = pair(model, monkeypatch, "float64")
    asked = [(GROUPS[k % 2], SamplingParams(max_tokens=12, seed=k)) for k in range(8)]
    least(monkeypatch, 1 << 60)
    plain = answers(sampler, asked)
    least(monkeypatch, 0)

    async def go() -> list[Any]:
        tasks = [asyncio.ensure_future(sampler.sample(ids, p)) for ids, p in asked]
        before = sampler.passes
        while sampler.passes < before + 40:
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    said = asyncio.run(go())
    assert all(isinstance(c, asyncio.CancelledError) for c in said[::2]) and 4 in merged
    same(said[1::2], plain[1::2], 1e-10)


def test_copies_are_made_behind_one_another() -> None:
    keys = torch.arange(2 * 3, dtype=torch.float64).view(2, 1, 3, 1)
    spread = Spread(torch.tensor([1, 0, 1]), torch.tensor([3, 2]), 3, keys.device)
    layer = Layer.behind(Stem(keys, keys, spread), 3, 2)
    for new in (10.0, 20.0, 30.0):
        column = (new + torch.arange(3, dtype=torch.float64)).view(3, 1, 1, 1)
        layer.update(column, column)
    assert [x.flatten().tolist() for x in layer.piece(0, slice(0, 3))] == [[4, 5, 10, 20, 30]] * 2
    layer.whole()
    assert layer.seen()[0].squeeze().tolist() == [[3, 4, 5, 10, 20, 30], [0, 1, 2, 11, 21, 31], [3, 4, 5, 12, 22, 32]]
    assert layer.filled == 6 and layer.stem is None
