"""Real vLLM servers on this machine: the local sampler's tokens, new weights, the prefix cache, the door, and death."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from temper.backends import vllm_servers
from temper.backends.base import ContextFull, Lora, SamplingParams, fingerprint
from temper.backends.vllm import VLLM
from temper.backends.vllm_client import ServedSampler
from temper.backends.vllm_servers import Server, VLLMServer
from temper.errors import UserError
from temper.gateway.client import Refused, Unreachable, ask
from temper.models import load
from tests.backends.test_vllm import Gap, shaken
from tests.backends.test_vllm_client import LETTERS, locally, many
from tests.core.test_invariants import go, small
from tests.core.test_sampler import PROMPTS, VARIETY
from tests.seams import toys

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm")
LONG = tuple(range(40, 110)) * 3


@pytest.fixture(scope="module")
def sampler() -> Iterator[ServedSampler]:
    settings = VLLMServer(servers=2, heartbeat=1.0, startup=900.0, engine=VLLM(cache=0.02))
    made = ServedSampler(load.load_model("temper-tiny", device="cpu"), load.load_tokenizer("temper-tiny"), settings)
    yield made
    made.close()


def push(sampler: ServedSampler, weights: dict[str, torch.Tensor], version: int) -> Any:
    """New weights in the learner's module and at the servers."""
    with torch.no_grad():
        for name, p in sampler.module.named_parameters():
            p.copy_(weights[name])
    return asyncio.run(sampler.load(weights, version))


def weights_of(sampler: ServedSampler) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in sampler.module.named_parameters()}


def raw(server: Server, path: str, body: Any = None, **options: Any) -> Any:
    return asyncio.run(ask(server.url + path, body, **{"token": server.token, "deadline": 60.0, **options}))


def generate(ids: tuple[int, ...], given: Any, **params: Any) -> dict[str, Any]:
    return {"token_ids": list(ids), "sampling_params": {"max_tokens": 1, "extra_args": {"temper": given}, **params}}


# what is sampled ----------------------------------------


def test_tokens_are_the_local_samplers(sampler: ServedSampler) -> None:
    text = sampler.tokenizer.decode(list(locally(sampler, (PROMPTS[1], LETTERS))[0].ids[3:6]))
    stops = [LETTERS.but(stop=("zzzz", text)), LETTERS.but(stop_ids=(101,)), LETTERS.but(max_tokens=1, stop=("a",))]
    requests = [(ids, p) for ids in (*PROMPTS, LONG) for p in (*VARIETY, *stops)]
    for a, b in zip(many(sampler, *requests), locally(sampler, *requests)):
        assert (a.ids, a.finish, a.support, a.allowed, a.text) == (b.ids, b.finish, b.support, b.allowed, b.text)
        assert a.logp == pytest.approx(b.logp, abs=1e-4)
    with pytest.raises(ContextFull):
        many(sampler, ((65,) * sampler.context, LETTERS))
    (full,) = many(sampler, ((65,) * (sampler.context - 2), LETTERS))
    assert len(full.ids) == 2 and full.finish == "length"


def test_a_prefix_is_computed_once_and_forgotten_with_its_weights(sampler: ServedSampler) -> None:
    body = generate((*range(200, 296), 65), "probe")

    def cached() -> list[int]:
        return [
            raw(s, "/inference/v1/generate", body)["usage"]["prompt_tokens_details"]["cached_tokens"]
            for s in sampler.servers
        ]

    assert (cached(), cached()) == ([0, 0], [96, 96])  # three whole blocks of 32
    push(sampler, weights_of(sampler), 1)
    assert (cached(), cached()) == ([0, 0], [96, 96])


# weights ----------------------------------------


def test_new_weights_are_served_and_acknowledged(sampler: ServedSampler) -> None:
    requests = [(LONG, SamplingParams(max_tokens=20, seed=s)) for s in range(6)]
    old, before = weights_of(sampler), many(sampler, *requests)
    new = shaken(sampler.module, 0.02)
    ack = push(sampler, new, 3)
    assert (ack.version, ack.fingerprint) == (3, fingerprint(new.items())) != (3, fingerprint(old.items()))
    after = many(sampler, *requests)
    assert [c.ids for c in after] == [c.ids for c in locally(sampler, *requests)] != [c.ids for c in before]
    assert {c.version for c in after} == {3}
    push(sampler, old, 4)
    assert [c.ids for c in many(sampler, *requests)] == [c.ids for c in before]


def test_a_push_in_the_middle_of_answers(sampler: ServedSampler) -> None:
    """They begin under the old weights, keep their tokens, and end as the new weights go on from them."""
    old, new = weights_of(sampler), shaken(sampler.module, 0.02)
    p = SamplingParams(max_tokens=200, allowed=tuple(range(97, 123)))
    requests = [(LONG, p.but(seed=n)) for n in range(8)]
    pure = many(sampler, *requests)

    async def both() -> Any:
        asked = asyncio.gather(*[sampler.sample(ids, q) for ids, q in requests])
        await asyncio.sleep(0.3)
        assert not asked.done()
        with torch.no_grad():
            for name, w in sampler.module.named_parameters():
                w.copy_(new[name])
        await sampler.load(new, 9)
        return await asked

    mixed = asyncio.run(asyncio.wait_for(both(), 60))
    late = many(sampler, *requests)
    assert any(a.versions for a in mixed)  # each says which token is of which weights
    for a, b, c in zip(mixed, pure, late):
        if a.version == 9:  # on a slow machine it may not have begun by then
            assert a.versions is None and a.ids == c.ids
            continue
        assert a.version == b.version != c.version == 9
        same = (a.versions or (a.version,) * 200).count(a.version)
        assert a.ids[:same] == b.ids[:same] and a.logp[:same] == pytest.approx(b.logp[:same], abs=1e-4)
        ids = torch.tensor([[*LONG, *a.ids]])
        with torch.inference_mode():
            logits = sampler.module(input_ids=ids).logits[0, len(LONG) - 1 : -1, 97:123].log_softmax(-1)
        now = [float(logits[n, i - 97]) for n, i in enumerate(a.ids)]
        assert a.logp[same:] == pytest.approx(now[same:], abs=1e-4)  # over the whole context, not over old keys
    push(sampler, old, 10)


# the door ----------------------------------------


def test_no_token_no_entry(sampler: ServedSampler) -> None:
    for path in (
        "/update_weights",
        "/pause",
        "/collective_rpc",
        "/inference/v1/generate",
        "/v1/models",
        "/sleep",
        "/metrics",
    ):
        for token in ("", "x" * 43):
            with pytest.raises(Refused, match="401"):
                raw(sampler.servers[0], path, {}, token=token)
    assert all(s.url.startswith("http://127.0.0.1:") and len(s.token) >= 32 for s in sampler.servers)
    assert sampler.servers[0].token != sampler.servers[1].token


def test_bad_requests_are_refused_and_harm_nothing(sampler: ServedSampler) -> None:
    server, fine = sampler.servers[0], {"max_tokens": 1, "top_k": 0, "seed": 0, "begun": 0}
    whole = {"key": "k", "limit": 1, "ends": [2], "params": fine}
    bad = [
        None, 3, "prob", [], {}, {**whole, "limit": 10**12}, {**whole, "ends": [512]}, {**whole, "key": 5},
        {**whole, "params": {**fine, "allowed": [512]}}, {**whole, "params": {**fine, "allowed": [-1]}},
        {**whole, "params": {**fine, "top_k": 2.5}}, {**whole, "params": {**fine, "temperature": "hot"}},
        {**whole, "params": {**fine, "stop": [7]}}, {**whole, "params": {**fine, "no_such": 1}},
    ]  # fmt: skip
    for given in bad:
        with pytest.raises((Refused, Unreachable), match=r"400|500"):
            raw(server, "/inference/v1/generate", generate((65, 66), given))
    for body in (
        {"token_ids": [-1]},
        {"token_ids": [9999]},
        {"token_ids": []},
        {"token_ids": "abc"},
        [],
    ):
        with pytest.raises((Refused, Unreachable), match=r"4[0-9][0-9]|500"):
            raw(
                server, "/inference/v1/generate", {**generate((65,), whole), **body} if isinstance(body, dict) else body
            )
    assert [c.ids for c in many(sampler, *[(PROMPTS[0], p) for p in VARIETY])] == [
        c.ids for c in locally(sampler, *[(PROMPTS[0], p) for p in VARIETY])
    ]


class Bomb:
    def __reduce__(self) -> Any:
        return (os.abort, ())


def test_weights_that_are_none_are_refused_and_the_next_ones_taken(sampler: ServedSampler, tmp_path: Path) -> None:
    """Nothing is unpickled, nothing outside the shared folder is read, a late message of an old transfer is refused."""
    server, folder = sampler.servers[0], sampler.shared
    (folder / "bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    (folder / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    save_file({"x": torch.zeros(1)}, tmp_path / "outside.safetensors")
    name, operation = sampler._due.file, sampler._due.operation  # type: ignore[union-attr]
    late = {"file": name, "operation": operation}
    for update in (
        {"file": "bomb.safetensors", "operation": 2**62}, {"file": "bomb.pt", "operation": 2**62}, late,
        {"file": str(tmp_path / "outside.safetensors"), "operation": 2**62},
        {"file": "../x.safetensors", "operation": 2**62},
        {"file": "none.safetensors", "operation": 2**62}, {"file": name, "operation": 2**62, "no_such": 1}, {"x": 1},
    ):  # fmt: skip
        raw(server, "/start_weight_update", {})
        with pytest.raises(Refused, match=r"400|500"):
            raw(server, "/update_weights", {"update_info": update})
    push(sampler, weights_of(sampler), 20)
    requests = [(ids, LETTERS) for ids in PROMPTS * 4]
    assert [c.ids for c in many(sampler, *requests)] == [c.ids for c in locally(sampler, *requests)]


# in a run ----------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(4, 8)], ids=["full", "lora"])
def test_ratio_is_one_at_every_step(sampler: ServedSampler, lora: Lora | None) -> None:
    if lora:
        pytest.importorskip("peft")
    urls, tokens = [s.url for s in sampler.servers], [s.token for s in sampler.servers]
    engine = VLLMServer(urls=(urls[1],), token=tokens[1], shared=sampler.shared)
    policy = toys.policy("temper-tiny", lr=3e-3, engine=engine, lora=lora)
    gap = Gap(policy)
    judge = [toys.ShareOf(tuple(range(0, 512, 2))), toys.CENTRED]
    params = SamplingParams(max_tokens=7, temperature=1.5, top_p=0.8)
    run = small("temper-tiny", policy=policy, on_group=judge, on_batch=[gap], sampling=params, steps=3)
    history = go(run)
    assert len(gap.gaps) == 3 and max(gap.gaps) < 1e-4  # the weights that sampled are those that are scored
    assert history[0]["policy_kl"] < 1e-8 and all(r["grad_norm"] > 0 for r in history)


# death ----------------------------------------


def test_a_killed_engine_loses_nothing_and_returns_with_the_present_weights(sampler: ServedSampler) -> None:
    push(sampler, weights_of(sampler), 30)  # a run of its own had the second server
    assert all(s.alive for s in sampler.servers)
    requests = [
        (PROMPTS[n % 4], SamplingParams(max_tokens=300, allowed=tuple(range(97, 123)), seed=n)) for n in range(24)
    ]
    victim = sampler.servers[0]
    assert victim.process is not None

    async def killed() -> Any:
        asked = asyncio.gather(*[sampler.sample(ids, p) for ids, p in requests])
        while not victim.calls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not asked.done()
        os.killpg(victim.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        return await asked

    answers = asyncio.run(asyncio.wait_for(killed(), 120))
    assert [c.ids for c in answers] == [c.ids for c in locally(sampler, *requests)]
    push(sampler, shaken(sampler.module, 0.02), 31)  # while it is away
    ends = time.monotonic() + 240
    while not victim.alive and time.monotonic() < ends:
        time.sleep(0.1)
    assert victim.alive and victim.version == 31 and victim.starts == 2
    (answer,) = asyncio.run(_alone(sampler, victim))
    assert answer.ids == locally(sampler, (PROMPTS[0], LETTERS))[0].ids


async def _alone(sampler: ServedSampler, server: Server) -> Any:
    others = [s for s in sampler.servers if s is not server]
    for other in others:
        other.alive = False
    try:
        return [await sampler.sample(PROMPTS[0], LETTERS)]
    finally:
        for other in others:
            other.alive = True


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (server,) = vllm_servers.of(VLLMServer(), tmp_path)
    with pytest.raises(UserError, match=r"ended before it could serve: --shared .*none is no directory"):
        asyncio.run(server.start({}, tmp_path, tmp_path / "none"))
