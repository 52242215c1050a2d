"""vLLM's own engine as the sampler: the local sampler's tokens, the learner's log-probs, and weights that do arrive."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends import vllm, vllm_adapters
from temper.backends.base import ContextFull, Lora, SamplingParams, fingerprint
from temper.backends.local_sampler import LocalSampler
from temper.backends.vllm import VLLM, VLLMSampler, checkpoint
from temper.columns import LOGP
from temper.episode import Completion
from temper.errors import UserError
from temper.models import load
from temper.policy import Policy
from tests.core.test_invariants import go, small
from tests.core.test_sampler import PROMPTS, VARIETY, expected
from tests.seams import toys

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm")
TIGHT = VLLM(cache=0.0025, block=32, options={"max_num_batched_tokens": 64})  # pieces of prompts, and too little room
LONG = tuple(range(40, 110)) * 3


def opened(settings: VLLM, **fields: Any) -> VLLMSampler:
    module = load.load_model("temper-tiny", device="cpu")
    return VLLMSampler(module, load.load_tokenizer("temper-tiny"), settings, **fields)


@pytest.fixture(scope="module")
def sampler() -> Iterator[VLLMSampler]:
    made = opened(VLLM(), max_rows=64)
    yield made
    made.close()


def many(sampler: Any, *requests: tuple[tuple[int, ...], SamplingParams]) -> list[Completion]:
    async def together() -> list[Completion]:
        return list(await asyncio.gather(*[sampler.sample(ids, p) for ids, p in requests]))

    return asyncio.run(together())


def local(sampler: VLLMSampler) -> LocalSampler:
    return LocalSampler(sampler.module, sampler.tokenizer)


def shaken(module: Any, by: float) -> dict[str, torch.Tensor]:
    """Other weights of the same module, not yet in it."""
    made = torch.Generator().manual_seed(1)
    return {n: p.detach() + by * torch.randn(p.shape, generator=made) for n, p in module.named_parameters()}


def put(module: Any, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(weights[name])


# what is sampled ----------------------------------------


@needs_vllm
def test_tokens_are_the_local_samplers(sampler: VLLMSampler) -> None:
    requests = [(ids, p) for ids in (*PROMPTS, LONG) for p in VARIETY]
    theirs, ours = many(sampler, *requests), many(local(sampler), *requests)
    for (ids, p), a, b in zip(requests, theirs, ours):
        assert (a.ids, a.finish, a.support, a.allowed, a.text) == (b.ids, b.finish, b.support, b.allowed, b.text)
        assert a.logp == pytest.approx(b.logp, abs=1e-4)
        assert a.logp == pytest.approx(expected(sampler, ids, a, p), abs=1e-4)  # type: ignore[arg-type]


@needs_vllm
def test_pieces_of_prompts_and_preemption_change_nothing() -> None:
    """64 tokens a step and a cache for one full context: pieces of prompts, and sequences that are redone."""
    sampler = opened(TIGHT, max_rows=16)
    try:
        end = sampler.end[0]  # drawn behind a piece of a prompt, it ends nothing
        free = [SamplingParams(max_tokens=60, temperature=1.2, seed=n) for n in range(12)]
        brief = [p.but(temperature=50.0, allowed=(end, 97, 98, 99, 100)) for p in free]
        requests = [((65 + n, *LONG), p) for n, p in enumerate([*free, *brief])]
        thrown, inner = [], sampler._engine.engine_core.engine_core.scheduler._preempt_request
        sampler._engine.engine_core.engine_core.scheduler._preempt_request = lambda *a, **k: (
            thrown.append(1), inner(*a, **k),
        )  # fmt: skip
        theirs, ours = many(sampler, *requests), many(local(sampler), *requests)
        assert thrown and [c.ids for c in theirs] == [c.ids for c in ours]
        assert all(a.logp == pytest.approx(b.logp, abs=1e-4) for a, b in zip(theirs, ours))
    finally:
        sampler.close()


@needs_vllm
def test_what_ends_an_answer(sampler: VLLMSampler) -> None:
    p = SamplingParams(max_tokens=40, temperature=0.0, allowed=tuple(range(97, 123)))
    (free,) = many(sampler, (PROMPTS[1], p))
    assert free.finish == "length" and len(free.ids) == 40
    stop = next(i for i in free.ids if i != free.ids[0]) if len(set(free.ids)) > 1 else free.ids[0]
    (by_id,) = many(sampler, (PROMPTS[1], p.but(stop_ids=(stop,))))
    assert by_id.ids == free.ids[: free.ids.index(stop) + 1] and by_id.finish == "stop"
    text = sampler.tokenizer.decode(list(free.ids[3:6]))
    (by_text,) = many(sampler, (PROMPTS[1], p.but(stop=("zzzz", text))))
    assert by_text.finish == "stop" and by_text.text.endswith(text) and by_text.ids == free.ids[: len(by_text.ids)]
    assert many(sampler, (PROMPTS[1], p)) == [free]  # what was stopped early left nothing behind


@needs_vllm
def test_a_full_context(sampler: VLLMSampler) -> None:
    p = SamplingParams(max_tokens=50, allowed=(97, 98))
    (c,) = many(sampler, ((65,) * (sampler.context - 2), p))
    assert len(c.ids) == 2 and c.finish == "length"
    with pytest.raises(ContextFull, match=f"a context of {sampler.context} tokens leaves no room"):
        many(sampler, ((65,) * sampler.context, p))
    with pytest.raises(ValueError, match="token id 5000 is outside the model's vocabulary of 512"):
        many(sampler, ((5000,), p))


@needs_vllm
def test_a_shared_prompt_is_computed_once(sampler: VLLMSampler) -> None:
    prompt = (*range(200, 296), 65)
    scheduler = sampler._engine.engine_core.engine_core.scheduler
    many(sampler, (prompt, SamplingParams(max_tokens=1)))
    computed, inner = list[int](), scheduler.schedule

    def schedule(*args: Any, **kwargs: Any) -> Any:
        made = inner(*args, **kwargs)
        computed.append(made.total_num_scheduled_tokens)
        return made

    scheduler.schedule = schedule
    try:
        many(sampler, *[(prompt, SamplingParams(max_tokens=1, seed=s)) for s in range(8)])
    finally:
        scheduler.schedule = inner
    assert sum(computed) == 8  # three whole blocks of 32 are there already


@needs_vllm
def test_cancelled_requests_leave_the_engine(sampler: VLLMSampler) -> None:
    scheduler = sampler._engine.engine_core.engine_core.scheduler
    ps = [SamplingParams(max_tokens=200, allowed=tuple(range(97, 123)), seed=n) for n in range(8)]

    async def together() -> list[Any]:
        tasks = [asyncio.ensure_future(sampler.sample(PROMPTS[n % 4], p)) for n, p in enumerate(ps)]
        while len(scheduler.running) < 8:
            await asyncio.sleep(0.001)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    out = asyncio.run(asyncio.wait_for(together(), 30))
    assert all(isinstance(c, asyncio.CancelledError) for c in out[::2])
    whole = many(sampler, *[(PROMPTS[n % 4], p) for n, p in enumerate(ps)])
    assert [c.ids for c in out[1::2]] == [c.ids for c in whole[1::2]]
    assert not scheduler.running and not scheduler.waiting and sampler._driver is not None

    from temper.backends.vllm_worker import LIVE

    assert not LIVE


@needs_vllm
def test_the_event_loop_goes_on_and_tokens_are_heard(sampler: VLLMSampler) -> None:
    heard, beats = list[int](), list[int]()

    async def beat() -> None:
        while True:
            beats.append(len(heard))
            await asyncio.sleep(0.0005)

    async def both() -> Completion:
        other = asyncio.ensure_future(beat())
        c = await sampler.sample(PROMPTS[0], SamplingParams(max_tokens=50, allowed=(97, 98, 99)), heard.append)
        other.cancel()
        return c

    c = asyncio.run(both())
    assert tuple(heard) == c.ids and len(set(beats)) > 10


@needs_vllm
def test_a_request_that_vllm_refuses_harms_no_other(sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = sampler._engine.add_request

    def refuse(key: str, prompt: Any, params: Any, **options: Any) -> Any:
        if len(prompt["prompt_token_ids"]) == 3:
            raise ValueError("no room")
        return inner(key, prompt, params, **options)

    monkeypatch.setattr(sampler._engine, "add_request", refuse)

    async def together() -> list[Any]:
        asked = [sampler.sample(ids, SamplingParams(max_tokens=4)) for ids in PROMPTS]
        return await asyncio.gather(*asked, return_exceptions=True)

    out = asyncio.run(together())
    assert [type(c) for c in out] == [Completion, Completion, ValueError, Completion] and str(out[2]) == "no room"


# weights ----------------------------------------


@needs_vllm
def test_new_weights_are_served_and_acknowledged(sampler: VLLMSampler) -> None:
    """After a push the tokens are those of the new weights, also where the old ones' keys and values were cached."""
    requests = [(LONG, SamplingParams(max_tokens=20, seed=s)) for s in range(6)]
    old, before = {n: p.detach().clone() for n, p in sampler.module.named_parameters()}, many(sampler, *requests)
    new = shaken(sampler.module, 0.02)
    put(sampler.module, new)
    ack = asyncio.run(sampler.load(new, 3))
    assert (ack.version, ack.fingerprint) == (3, fingerprint(new.items())) != (3, fingerprint(old.items()))
    after = many(sampler, *requests)
    assert [c.ids for c in after] == [c.ids for c in many(local(sampler), *requests)] != [c.ids for c in before]
    assert {c.version for c in after} == {3} and {c.version for c in before} == {0}
    put(sampler.module, old)
    asyncio.run(sampler.load(old, 0))
    assert [c.ids for c in many(sampler, *requests)] == [c.ids for c in before]


@needs_vllm
def test_a_push_in_the_middle_of_an_answer(sampler: VLLMSampler) -> None:
    """The tokens behind the push are those of the new weights over the whole context, not over old keys and values."""
    old, new = {n: p.detach().clone() for n, p in sampler.module.named_parameters()}, shaken(sampler.module, 0.02)
    p, heard, at = SamplingParams(max_tokens=40, allowed=tuple(range(97, 123)), seed=4), list[int](), 0

    async def both() -> Completion:
        nonlocal at
        asked = asyncio.ensure_future(sampler.sample(LONG, p, heard.append))
        while len(heard) < 10:
            await asyncio.sleep(0)
        put(sampler.module, new)
        await sampler.load(new, 1)
        at = len(heard)
        return await asked

    c = asyncio.run(asyncio.wait_for(both(), 30))
    late = expected(sampler, LONG, c, p)  # type: ignore[arg-type]
    assert at + 2 < 40 and c.logp[at + 2 :] == pytest.approx(late[at + 2 :], abs=1e-4)
    assert c.logp[:8] != pytest.approx(late[:8], abs=1e-3)
    put(sampler.module, old)
    asyncio.run(sampler.load(old, 0))


@needs_vllm
def test_an_engine_that_keeps_its_weights_is_found_out(sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = {n: p.detach().clone() for n, p in sampler.module.named_parameters()}, shaken(sampler.module, 0.02)
    put(sampler.module, new)
    with monkeypatch.context() as m:
        m.setattr(vllm, "checkpoint", lambda module, weights: old)
        with pytest.raises(UserError, match=r"vLLM serves another model than the learner's: .* differ by up to"):
            asyncio.run(sampler.load(new, 1))
    put(sampler.module, old)
    asyncio.run(sampler.load(old, 0))


def test_adapters_are_merged_as_peft_merges_them() -> None:
    pytest.importorskip("peft")
    module: Any = load.load_model("temper-tiny", device="cpu", lora=Lora(4, 8))
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    whole = checkpoint(module, {n: p for n, p in module.named_parameters() if p.requires_grad})
    theirs = dict(module.merge_and_unload().named_parameters())
    assert whole.keys() == theirs.keys()
    assert all(torch.allclose(whole[n], theirs[n], atol=1e-6) for n in whole)


def adapted(**options: Any) -> Any:
    module: Any = load.load_model("temper-tiny", device="cpu", lora=Lora(4, 8, **options))
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    return module


def test_adapters_are_written_as_peft_writes_them(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    module = adapted()
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert vllm_adapters.write(module, trained, tmp_path) == fingerprint(trained.items())
    module.save_pretrained(tmp_path / "theirs")
    mine, theirs = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("", "theirs"))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert (tmp_path / "adapter_config.json").exists()
    whole = dict(load.load_model("temper-tiny", device="cpu").named_parameters())
    under = vllm_adapters.base(module)
    assert under.keys() == whole.keys() and all(torch.equal(under[n], whole[n]) for n in whole)


def test_which_adapters_are_merged() -> None:
    pytest.importorskip("peft")
    assert vllm_adapters.room(load.load_model("temper-tiny", device="cpu")) is None
    assert vllm_adapters.room(adapted()) == 8
    for options in ({"use_dora": True}, {"modules_to_save": ["norm"]}, {"rank_pattern": {"q_proj": 600}}):
        assert vllm_adapters.room(adapted(options=options)) is None


def test_a_probe_is_of_the_weights_that_are_given() -> None:
    """Also while the module itself goes on: with adapters, and without."""
    pytest.importorskip("peft")
    for module in (load.load_model("temper-tiny", device="cpu"), adapted()):
        given = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        before = vllm.behind_probe(module, 512, 1024, given)[1]
        with torch.no_grad():
            for p in module.parameters():
                if p.requires_grad:
                    p.mul_(1.1)
        assert torch.equal(vllm.behind_probe(module, 512, 1024, given)[1], before)
        assert not torch.allclose(vllm.behind_probe(module, 512, 1024, {})[1], before)


# in a run ----------------------------------------


class Gap:
    """Largest difference between the sampler's log-probs and the learner's, of the same tokens, at each step."""

    reads, writes = (LOGP.of("behaviour"),), (LOGP.of("old"),)

    def __init__(self, policy: Policy):
        self.policy, self.gaps = policy, list[float]()

    async def __call__(self, b: Any) -> Any:
        b = self.policy.learner.read(b, {LOGP.of("old"): LOGP})
        self.gaps.append(float((b[LOGP.of("old")] - b[LOGP.of("behaviour")]).abs().max()))
        return b


@needs_vllm
@pytest.mark.parametrize("lora", [None, Lora(4, 8), Lora(4, 16)], ids=["full", "lora", "merged"])
@pytest.mark.parametrize(
    "params",
    [{"temperature": 1.5}, {"temperature": 1.8, "top_p": 0.7}, {"allowed": tuple(range(97, 105)), "top_k": 4}],
    ids=lambda p: ",".join(p),
)
def test_ratio_is_one_at_every_step(params: dict[str, Any], lora: Lora | None) -> None:
    if lora:
        pytest.importorskip("peft")
    settings = VLLM(cache=0.02, lora=lora is None or lora.alpha == 8)
    policy = toys.policy("temper-tiny", lr=3e-3, engine=settings, lora=lora)
    gap = Gap(policy)
    sampling = SamplingParams(max_tokens=7).but(**params)
    judge = [toys.ShareOf(tuple(range(0, 512, 2))), toys.CENTRED]
    run = small("temper-tiny", policy=policy, on_group=judge, on_batch=[gap], sampling=sampling, steps=3)
    history = go(run)
    assert len(gap.gaps) == 3 and max(gap.gaps) < 1e-4  # the weights that sampled are those that are scored
    assert history[0]["policy_kl"] < 1e-8 and all(r["grad_norm"] > 0 for r in history)


@needs_vllm
def test_a_run_is_the_local_samplers_run(tmp_path: Path) -> None:
    from temper.recipes.grpo import grpo

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "say {w}", "answer": "{w}"}}\n' for w in "abcdefgh"))
    make: Callable[..., Any] = lambda sampler: grpo(  # noqa: E731
        model="temper-tiny", data=str(data), reward=("exact_match",), steps=3, groups=2, attempts=3, max_tokens=6,
        eval_tasks=1, eval_attempts=1, lr=1e-3, sampler=sampler,
    )  # fmt: skip
    theirs, ours = ([r for r in go(make(sampler)) if r["step"]] for sampler in ("vllm", "local"))
    for name in ("reward", "entropy", "grad_norm"):
        assert [r[name] for r in theirs] == pytest.approx([r[name] for r in ours], rel=1e-3)
    assert all(r["policy_kl"] < 1e-8 for r in theirs)


# installs ----------------------------------------


def test_without_vllm_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^the vLLM sampler needs vLLM: pip install vllm \(on a CPU: make vllm"):
        Policy(engine="vllm").open()
    with pytest.raises(UserError, match="unknown engine 'vlm'; did you mean vllm"):
        Policy(engine="vlm")


@needs_vllm
def test_what_vllm_cannot_serve_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^vLLM cannot serve this model: .*float32"):
        Policy(dtype="float64", engine="vllm").open()
    with pytest.raises(UserError, match=r"^vLLM cannot serve this model: .*no_such_option"):
        Policy(engine=VLLM(options={"no_such_option": 1})).open()
    with pytest.raises(UserError, match=r"^vLLM cannot serve this model: .*KV cache"):
        Policy(engine=VLLM(cache=0.0001)).open()


@needs_vllm
def test_a_model_that_its_kernels_do_not_fit_is_one_sentence(toy_model: str) -> None:
    with pytest.raises(UserError, match=r"^vLLM cannot serve this model: .*head_dim=16"):
        Policy(model=toy_model, engine="vllm").open()
