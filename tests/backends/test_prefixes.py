"""What was computed once is gone on from: fewer tokens are computed, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.backends.adapters import BaseSampler
from temper.backends.base import ContextFull, Lora, SamplingParams
from temper.backends.local_sampler import LocalSampler, buckets
from temper.backends.prefixes import Ids, Prefixes, common, stems
from temper.backends.speculate import Speculation
from temper.carrier import Batch
from temper.columns import LOGP
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.evaluate import Evaluation
from temper.loop import train
from temper.models import load, tiny
from temper.objective import Update
from temper.policy import Seat
from temper.run import Run
from temper.tasks.task import Task
from tests.models import builders
from tests.seams import toys

SYSTEM = tuple(range(97, 97 + 26)) * 4
STARTS = [(*SYSTEM, 65 + k % 5) for k in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sharp")
    module: Any = load.load_model(toys.save_toy_model(folder, seed=3, sharpness=15.0))
    for name, weights in module.named_parameters():
        if "down_proj" in name or "v_proj" in name:
            weights.data *= 300.0
    tiny.save_tiny(module, folder)
    return str(folder)


def sampler_of(model: Any, dtype: str = "float64", **options: Any) -> LocalSampler:
    module = load.load_model(model, dtype=dtype, device="cpu") if isinstance(model, str) else model
    made = LocalSampler(module, tiny.tiny_tokenizer(), **options)
    made.end = frozenset()
    return made


def apart(sampler: LocalSampler) -> LocalSampler:
    """The same without stored contexts."""
    sampler._extends = False
    return sampler


def computed(sampler: LocalSampler) -> list[tuple[int, int]]:
    """A list that gets (rows, columns) of every pass over prompts."""
    log, inner = list[tuple[int, int]](), sampler._forward

    def noting(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ids.shape[1] > 1:
            log.append((ids.shape[0], ids.shape[1]))
        out: torch.Tensor = inner(ids, *rest)
        return out

    sampler._forward = noting  # type: ignore[method-assign]
    return log


async def talk(sampler: LocalSampler, start: Ids, n: int, turns: int = 3, **params: Any) -> list[Any]:
    """Turns of different lengths with observations between them."""
    ids, said = start, list[Any]()
    for turn in range(turns):
        p = SamplingParams(max_tokens=2 + (n + turn) % 5, seed=10 * n + turn, continued=turn + 1 < turns, **params)
        said.append(await sampler.sample(ids, p))
        ids = (*ids, *said[-1].ids, *range(40, 47 + n % 3))
    return said


def conversations(sampler: LocalSampler, starts: list[Ids] = STARTS, **params: Any) -> list[Any]:
    async def go() -> list[Any]:
        return list(await asyncio.gather(*(talk(sampler, s, n, **params) for n, s in enumerate(starts))))

    return [c for said in asyncio.run(go()) for c in said]


def same(mine: list[Any], theirs: list[Any], tolerance: float) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert a.logp == pytest.approx(b.logp, abs=tolerance)
        assert replace(a, logp=()) == replace(b, logp=())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
@pytest.mark.parametrize("lean", [True, False])
def test_turns_compute_what_is_new(model: str, dtype: str, tolerance: float, lean: bool) -> None:
    mine, theirs = sampler_of(model, dtype), apart(sampler_of(model, dtype))
    if not lean:
        mine.decoder = theirs.decoder = None
    mine.extends  # noqa: B018 - tries it on the model, which is not to be counted
    passes, whole = computed(mine), computed(theirs)
    same(conversations(mine), conversations(theirs), tolerance)
    assert max(columns for _, columns in passes[1:]) < 20 < max(columns for _, columns in whole[1:])
    assert passes[0] == (1, 104)  # what all prompts begin with, once
    assert sum(r * c for r, c in passes) < sum(r * c for r, c in whole) / 5


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}, {"stop": ("a", "zq")}])
def test_with_any_parameters(model: str, options: dict[str, Any]) -> None:
    module = load.load_model(model, dtype="float64", device="cpu")
    same(conversations(sampler_of(module), **options), conversations(apart(sampler_of(module)), **options), 1e-10)


@pytest.mark.parametrize("max_rows", [3, 1024])
def test_with_guesses_and_little_room(model: str, max_rows: int) -> None:
    module = load.load_model(model, dtype="float64", device="cpu")
    guessing = sampler_of(module, drafts=Speculation(most=4), max_rows=max_rows)
    same(conversations(guessing), conversations(apart(sampler_of(module))), 1e-10)


@pytest.mark.parametrize("limit", [0, 1, 40_000])
def test_memory_is_bounded(model: str, limit: int) -> None:
    """float64, one layer, a head of 16: a token takes 256 bytes, so that 40,000 hold one context or a few stems."""
    module = load.load_model(model, dtype="float64", device="cpu")
    mine, held, put = sampler_of(module, kept=limit), list[int](), Prefixes.put

    def noting(self: Prefixes, *what: Any) -> None:
        put(self, *what)
        held.append(self.held)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(Prefixes, "put", noting)
        same(conversations(mine), conversations(apart(sampler_of(module))), 1e-10)
    assert len(held) > 12 and max(held) <= limit and (max(held) > 0) == (limit > 1)


# weights -------------------------------------------------------------------------------------------------------------


def shift(module: Any) -> None:
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "v_proj" in name or "k_norm" in name:
                p.mul_(1.5)


@pytest.mark.parametrize("loaded", [True, False])
def test_other_weights_never_meet_what_was_stored(model: str, loaded: bool) -> None:
    """Whether they are pushed, or changed under its feet."""
    sampler = sampler_of(model)

    async def go() -> Any:
        p = SamplingParams(max_tokens=8, seed=1, continued=True)
        first = await sampler.sample(STARTS[0], p)
        assert len(sampler.prefixes) and await sampler.sample((*STARTS[0], *first.ids, 70), p)
        shift(sampler.module)
        if loaded:
            await sampler.load({}, 1)
            assert len(sampler.prefixes) == 0
        return await sampler.sample((*STARTS[0], *first.ids, 70), p), first

    after, first = asyncio.run(go())
    fresh = asyncio.run(
        apart(sampler_of(sampler.module)).sample((*STARTS[0], *first.ids, 70), SamplingParams(max_tokens=8, seed=1))
    )
    assert after.ids == fresh.ids and after.logp == pytest.approx(fresh.logp, abs=1e-10)


def test_a_row_that_began_before_a_push_is_not_stored(model: str) -> None:
    sampler = sampler_of(model)

    async def go() -> None:
        p = SamplingParams(max_tokens=30, continued=True)
        running = asyncio.ensure_future(sampler.sample(STARTS[0], p))
        while sampler.passes < 5:
            await asyncio.sleep(0)
        await sampler.load({}, 1)
        await running
        assert len(sampler.prefixes) == 0
        await sampler.sample(STARTS[1], p)
        assert len(sampler.prefixes) == 1

    asyncio.run(go())


def test_only_what_is_continued_is_stored(model: str) -> None:
    sampler = sampler_of(model)
    asyncio.run(sampler.sample(STARTS[0], SamplingParams(max_tokens=4)))
    assert len(sampler.prefixes) == 0
    asyncio.run(sampler.sample(STARTS[0], SamplingParams(max_tokens=4, continued=True)))
    assert sampler.prefixes.longest((*STARTS[0], 1))[1] >= len(STARTS[0])
    sampler.forget()
    assert len(sampler.prefixes) == sampler.prefixes.held == 0


def test_adapters_and_their_base_store_apart(model: str) -> None:
    adapted = load.add_lora(load.load_model(model, dtype="float64", device="cpu"), Lora(4, 8))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p += 0.02
    samplers = [LocalSampler(adapted, tiny.tiny_tokenizer()), BaseSampler(adapted, tiny.tiny_tokenizer())]
    for s in samplers:
        s.end = frozenset()

    async def go() -> list[list[Any]]:
        return list(await asyncio.gather(*(talk(s, STARTS[0], 0) for s in samplers)))

    mine = asyncio.run(go())
    assert [c.ids for c in mine[0]] != [c.ids for c in mine[1]]
    for sampler, said in zip(samplers, mine):
        same(said, asyncio.run(talk(apart(sampler), STARTS[0], 0)), 1e-10)


# architectures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "mistral", "gpt2", "phi", "qwen3_moe", "qwen3_next"])
def test_any_architecture(name: str, tmp_path: Path) -> None:
    """Windows of 8 tokens see over the seam; a model that carries a state computes everything again."""
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(builders.save(name, tmp_path), dtype=torch.float32).eval()
    mine = sampler_of(module)
    starts = [tuple(i % 60 for i in s) for s in STARTS[:4]]
    same(conversations(mine, starts), conversations(apart(sampler_of(module)), starts), 1e-4)
    assert mine.extends == (name != "qwen3_next") == bool(len(mine.prefixes))


def test_a_model_that_does_not_continue_is_found_out(model: str) -> None:
    sampler = sampler_of(model)
    sampler.decoder = None
    trunk, calls = sampler.module.model, list[int]()  # type: ignore[attr-defined]
    forward = trunk.forward

    def shifted(*args: Any, position_ids: torch.Tensor, **options: Any) -> Any:
        calls.append(int(position_ids.min()))
        return forward(*args, position_ids=position_ids - position_ids.min(), **options)  # begins anew every time

    trunk.forward = shifted
    assert not sampler.extends and max(calls) > 0
    asyncio.run(sampler.sample(STARTS[0], SamplingParams(max_tokens=4, continued=True)))
    assert len(sampler.prefixes) == 0


# at the edges --------------------------------------------------------------------------------------------------------


def test_listeners_cancellation_and_a_full_context(model: str) -> None:
    sampler = sampler_of(model)
    sampler.context = len(SYSTEM) + 30
    p, heard = SamplingParams(max_tokens=9, seed=3, continued=True), list[int]()

    async def go() -> Any:
        first = await sampler.sample(STARTS[0], p)
        following = (*STARTS[0], *first.ids, 50)
        tasks = [asyncio.ensure_future(sampler.sample(following, replace(p, seed=k))) for k in range(4)]
        for _ in range(6):
            await asyncio.sleep(0)
        tasks[0].cancel()
        said = await asyncio.gather(*tasks, return_exceptions=True)
        again = await sampler.sample(following, replace(p, seed=1), heard.append)
        last = await sampler.sample((*following, *again.ids), replace(p, max_tokens=50))
        with pytest.raises(ContextFull):
            await sampler.sample((*following, *again.ids, *last.ids), p)
        return said, again, last

    said, again, last = asyncio.run(go())
    assert isinstance(said[0], asyncio.CancelledError) and all(len(c.ids) == 9 for c in said[1:])
    assert again.ids == said[1].ids == tuple(heard)
    assert len(last.ids) == sampler.context - len(STARTS[0]) - 19 and last.finish == "length"


def test_a_prompt_that_is_stored_whole_computes_its_last_token(model: str) -> None:
    sampler = sampler_of(model)
    p = SamplingParams(max_tokens=5, seed=2, continued=True)
    first = asyncio.run(sampler.sample(STARTS[0], p))
    sizes, inner, _ = list[int](), sampler._prefilled, sampler.extends

    def noting(asked: Any, reserve: int) -> Any:
        sizes.extend(len(ids) - n for ids, _, n in asked)
        return inner(asked, reserve)

    sampler._prefilled = noting  # type: ignore[method-assign]
    assert asyncio.run(sampler.sample(STARTS[0], p)).ids == first.ids and sizes == [1]


# what is stored ------------------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


def piece(ids: Ids) -> list[Any]:
    return [(torch.zeros(1, len(ids), 2), torch.zeros(1, len(ids), 2))]


def brute(a: Ids, b: Ids) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


@settings(deadline=None)
@given(st.lists(IDS, max_size=20), IDS)
def test_the_longest_prefix_is_found(stored: list[Ids], asked: Ids) -> None:
    prefixes = Prefixes(1 << 20)
    for ids in stored:
        prefixes.put(ids, piece(ids))
    found, n = prefixes.longest(asked)
    assert n == max((brute(ids, asked) for ids in stored), default=0) == common(asked, found.ids if found else ())
    covered = {ids for ids in stored if not any(o != ids and o[: len(ids)] == ids for o in stored)}
    assert set(prefixes._order) == set(prefixes._stored) == covered and prefixes._order == sorted(covered)
    assert prefixes.held == sum(16 * len(ids) for ids in covered)


def test_what_was_not_used_for_longest_goes_first() -> None:
    prefixes = Prefixes(16 * 6)
    for ids in ((1, 1), (2, 2), (3, 3)):
        prefixes.put(ids, piece(ids))
    prefixes.longest((1, 1, 5))
    prefixes.put((4, 4), piece((4, 4)))
    assert prefixes._order == [(1, 1), (3, 3), (4, 4)] and prefixes.held == 96
    prefixes.put((5,) * 7, piece((5,) * 7))  # more than there is room for
    assert len(prefixes) == prefixes.held == 0


@settings(deadline=None)
@given(st.lists(IDS, min_size=1, max_size=20, unique=True), st.lists(IDS, max_size=5), st.integers(1, 6))
def test_stems_spare_what_they_promise(prompts: list[Ids], done: list[Ids], worth: int) -> None:
    def left(ids: Ids, last: int = 0) -> int:
        return len(ids) - min(max((brute(ids, d) for d in done), default=0), len(ids) - last)

    prompts = sorted(prompts)
    for level in stems(prompts, [len(p) - left(p, 1) for p in prompts], worth):
        before = sum(left(p, 1) for p in prompts)
        cost = sum(map(left, level))
        done = [*done, *level]
        assert level and before - sum(left(p, 1) for p in prompts) >= cost + worth * len(level)


def test_stems_by_hand() -> None:
    a, b, c = (1,) * 10 + (2,) * 10, (1,) * 10 + (3,) * 10, (9,)
    levels = stems([(*a, 5), (*a, 6), (*b, 5), (*b, 6), c], [0] * 5, 9)
    assert [sorted(level) for level in levels] == [[(1,) * 10], [a, b]]
    assert stems([(*a, 5), (*a, 6), (*b, 5)], [20, 20, 10], 1) == []  # what is stored already is worth nothing
    assert stems([c], [0], 1) == []
    chain = [(1,) * n for n in range(10, 2000, 10)]
    assert len(stems(chain, [0] * len(chain), 1)) == 198


def test_buckets_keep_padding_small() -> None:
    assert [(b.start, b.stop) for b in buckets([500, 490, 400, 30, 20, 20])] == [(0, 3), (3, 6)]
    assert [(b.start, b.stop) for b in buckets([20000, 20000, 5])] == [(0, 1), (1, 2), (2, 3)]
    assert [(b.start, b.stop) for b in buckets([40] * 100)] == [(0, 100)]


# runs ----------------------------------------------------------------------------------------------------------------


@dataclass
class Talking:
    """Three turns of a policy, and what a frozen model says to each."""

    roles = ("solver", "critic")

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        chat = Chat(roles["solver"], Recorder(task), turns=3)
        chat.start([{"role": "system", "content": "Be brief, and answer in letters of the alphabet."}, *task.messages])
        while (said := await chat.say()) is not None:
            heard = await roles["critic"].sample(chat.context, continued=True)
            if not chat.observe([{"role": "user", "content": f"{len(said.ids)} {heard.text[:3]!r}"}]):
                break
        chat.judge()
        return chat.record.episode()


@dataclass
class Noting:
    """Keeps the sampler's log-probs of every batch."""

    kept: list[torch.Tensor] = field(default_factory=list)
    reads = (LOGP.of("behaviour"),)
    writes = ()

    async def __call__(self, b: Batch) -> Batch:
        self.kept.append(b[LOGP.of("behaviour")])
        return b


def test_a_resumed_run_samples_the_same_to_the_last_bit(model: str, tmp_path: Path) -> None:
    """An evaluation between the steps fills both samplers; the frozen critic's weights are never pushed."""

    def go(out: Path, steps: int, resume: bool = False) -> list[torch.Tensor]:
        policy, critic = toys.policy(model, lr=1e-2), toys.policy(model, name="critic", trainable=False)
        noting = Noting()
        run = Run(
            env=Talking(), curriculum=toys.curriculum(2), roles={"solver": policy, "critic": critic},
            on_group=[toys.ShareOf(tuple(range(97, 110))), toys.CENTRED], on_batch=[noting],
            updates=[Update(policy, [toys.POLICY_TERM])], probes=[Evaluation(toys.TASKS, every=1)],
            sampling=toys.SHORT, steps=steps, groups=4, save_every=2, out=out, resume=resume,
        )  # fmt: skip
        asyncio.run(train(run))
        return noting.kept

    whole = go(tmp_path / "whole", 4)
    parts = go(tmp_path / "parts", 2) + go(tmp_path / "parts", 4, resume=True)
    assert len(whole) == 4 and all(map(torch.equal, whole, parts))
