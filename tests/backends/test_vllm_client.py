"""The client of vLLM servers against a stand-in: what it asks, whom, and what becomes of bad answers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends import vllm_server
from temper.backends.base import SamplingParams, fingerprint
from temper.backends.local_sampler import LocalSampler
from temper.backends.vllm_client import ServedSampler
from temper.backends.vllm_servers import VLLMServer
from temper.episode import Completion
from temper.errors import UserError
from temper.gateway.client import Refused, Unreachable, ask
from temper.models import load
from tests.backends.stand_in import KEY, StandIn
from tests.core.test_sampler import PROMPTS, VARIETY

LETTERS = SamplingParams(max_tokens=30, allowed=tuple(range(97, 123)))
FAULTS = (
    "is no JSON", "is not an answer", "is too large", "is cut off", "is an error", "ends early", "is of another token",
    "has no log-prob",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[StandIn]]:
    made = [StandIn(tmp_path) for _ in range(2)]
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., ServedSampler]]:
    made = list[ServedSampler]()

    def of(*servers: StandIn, **settings: Any) -> ServedSampler:
        settings = {"deadline": 20.0, "heartbeat": 0.1, "token": KEY, **settings}
        module = load.load_model("temper-tiny", device="cpu")
        chosen = VLLMServer(urls=tuple(s.url for s in servers), shared=tmp_path, **settings)
        made.append(ServedSampler(module, load.load_tokenizer("temper-tiny"), chosen, max_rows=16))
        return made[-1]

    yield of
    for sampler in made:
        sampler.close()


def many(sampler: Any, *requests: tuple[tuple[int, ...], SamplingParams]) -> list[Completion]:
    async def together() -> list[Completion]:
        return list(await asyncio.gather(*[sampler.sample(ids, p) for ids, p in requests]))

    return asyncio.run(together())


def locally(sampler: ServedSampler, *requests: Any) -> list[Completion]:
    return many(LocalSampler(sampler.module, sampler.tokenizer), *requests)


def shaken(sampler: ServedSampler, by: float = 0.02) -> dict[str, torch.Tensor]:
    """New weights, in the learner's module already."""
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in sampler.module.parameters():
            p.add_(by * torch.randn(p.shape, generator=made))
    return {n: p.detach() for n, p in sampler.module.named_parameters()}


# what is sampled ----------------------------------------


def test_answers_are_the_local_samplers_and_shared_out(two: list[StandIn], opened: Any) -> None:
    sampler = opened(*two)
    text = sampler.tokenizer.decode(list(locally(sampler, (PROMPTS[1], LETTERS))[0].ids[3:6]))
    requests = [(ids, p) for ids in PROMPTS for p in (*VARIETY, LETTERS.but(stop=("zzzz", text)))]
    for a, b in zip(many(sampler, *requests), locally(sampler, *requests)):
        assert (a.ids, a.finish, a.support, a.allowed, a.text) == (b.ids, b.finish, b.support, b.allowed, b.text)
        assert a.logp == pytest.approx(b.logp, abs=1e-4)
    asked = [s.said.count("/inference/v1/generate") - 1 for s in two]
    assert sum(asked) == len(requests) and min(asked) >= len(requests) // 2 - 4


def test_no_more_than_max_rows_at_once(two: list[StandIn], opened: Any) -> None:
    sampler = opened(two[0])
    two[0].faults.extend(["hangs"] * 40)

    async def most() -> int:
        tasks = [asyncio.ensure_future(sampler.sample(PROMPTS[0], LETTERS)) for _ in range(40)]
        while two[0].working < 16:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        working = two[0].working
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return working

    assert asyncio.run(most()) == 16
    while two[0].working:
        time.sleep(0.01)
    two[0].faults.clear()  # who was cancelled left room
    (one,) = locally(sampler, (PROMPTS[0], LETTERS))
    assert [c.ids for c in many(sampler, *[(PROMPTS[0], LETTERS)] * 40)] == [one.ids] * 40


def test_a_cancelled_request_ends_at_its_server(two: list[StandIn], opened: Any) -> None:
    sampler = opened(two[0])
    two[0].faults.append("hangs")

    async def cancelled() -> None:
        task = asyncio.ensure_future(sampler.sample(PROMPTS[0], LETTERS))
        while not two[0].working:
            await asyncio.sleep(0.01)
        task.cancel()
        while two[0].working:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cancelled(), 5))


def test_what_is_cut_off_returns_what_it_has(two: list[StandIn], opened: Any) -> None:
    """Also what waits for room; and it goes on from there with its own numbers."""
    sampler = opened(two[0])
    two[0].faults.extend(["is cut short"] * 40)
    requests = [(PROMPTS[n % 4], LETTERS.but(seed=n)) for n in range(24)]

    async def cut() -> list[Completion]:
        asked = asyncio.gather(*[sampler.sample(ids, p) for ids, p in requests])
        while two[0].working < 16:
            await asyncio.sleep(0.01)
        await sampler.abort()
        return list(await asked)

    first, pure = asyncio.run(asyncio.wait_for(cut(), 20)), locally(sampler, *requests)
    assert {c.finish for c in first} == {"abort"} and sorted({len(c.ids) for c in first}) == [0, 5]
    two[0].faults.clear()
    rest = many(sampler, *[((*ids, *c.ids), p.but(begun=len(c.ids))) for (ids, p), c in zip(requests, first)])
    assert [c.then(more).ids for c, more in zip(first, rest)] == [c.ids for c in pure]
    assert [more.text for more in rest] == [c.text for c in pure]


# weights ----------------------------------------


def test_new_weights_in_their_order_and_acknowledged(two: list[StandIn], opened: Any, tmp_path: Path) -> None:
    sampler = opened(*two)
    for s in two:
        s.said.clear()
    weights = shaken(sampler)
    ack = asyncio.run(sampler.load(weights, 7))
    assert (ack.version, ack.fingerprint) == (7, fingerprint(weights.items()))
    order = [
        "/pause",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/reset_prefix_cache",
        "/resume",
    ]
    for s in two:
        assert [p for p in s.said if p != "/health"] == [*order, "/collective_rpc", "/inference/v1/generate"]
    requests = [(ids, LETTERS.but(seed=n)) for n, ids in enumerate(PROMPTS)]
    served = many(sampler, *requests)
    assert [c.ids for c in served] == [c.ids for c in locally(sampler, *requests)] and {c.version for c in served} == {
        7
    }
    assert len(list(tmp_path.glob("*.safetensors"))) == 1  # of the present weights, for a server that comes back


def test_a_server_that_keeps_its_weights_is_found_out(two: list[StandIn], opened: Any) -> None:
    sampler = opened(*two)
    two[1].deaf = True
    with pytest.raises(UserError, match=f"vLLM server {two[1].url} got other weights than were sent"):
        asyncio.run(sampler.load(shaken(sampler), 1))


def test_a_server_that_computes_something_else_is_found_out(two: list[StandIn], opened: Any) -> None:
    sampler = opened(two[0])
    weights = dict(shaken(sampler))
    with torch.no_grad():
        for p in sampler.module.parameters():  # the learner goes on while its weights are on their way
            p.mul_(1.1)
    real, sampler._transfer = sampler._transfer, None

    def other(given: Any, version: int) -> Any:
        made = real(given, version)
        return type(made)(**{**made.__dict__, "logp": made.logp + 0.1})

    sampler._transfer = other
    with pytest.raises(
        UserError, match=r"serves another model than the learner's: .* by up to 0.1 \(tolerance 0.001\)"
    ):
        asyncio.run(sampler.load(weights, 1))


# faults ----------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_answer_is_asked_for_again_elsewhere(two: list[StandIn], opened: Any, fault: str) -> None:
    sampler = opened(*two)
    two[0].faults.append(fault)
    requests = [(ids, LETTERS.but(seed=n)) for n, ids in enumerate(PROMPTS)]
    assert [c.ids for c in many(sampler, *requests)] == [c.ids for c in locally(sampler, *requests)]
    assert not two[0].faults


def test_bad_answers_without_end_are_one_sentence(two: list[StandIn], opened: Any) -> None:
    sampler = opened(two[0], retries=2)
    for fault, why in (("is of another token", "token 9999 with log-prob"), ("is no JSON", "the answer is not JSON")):
        two[0].faults.extend([fault] * 3)
        with pytest.raises(
            UserError, match=f"asked 3 times for an answer to 2 tokens; the last time, {two[0].url}.*{why}"
        ):
            many(sampler, (PROMPTS[0], LETTERS))


def test_a_server_that_dies_is_replaced_by_the_other_and_comes_back_with_the_present_weights(
    two: list[StandIn], opened: Any, tmp_path: Path
) -> None:
    sampler = opened(*two)
    two[0].faults.extend(["hangs"] * 8)
    requests = [(PROMPTS[n % 4], LETTERS.but(seed=n)) for n in range(8)]

    async def dies() -> list[Completion]:
        asked = asyncio.gather(*[sampler.sample(ids, p) for ids, p in requests])
        while two[0].working < 4:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(two[0].stop)
        return list(await asked)

    answers = asyncio.run(asyncio.wait_for(dies(), 15))
    assert [c.ids for c in answers] == [c.ids for c in locally(sampler, *requests)]
    assert [s.alive for s in sampler.servers] == [False, True]
    asyncio.run(sampler.load(shaken(sampler), 5))  # while it is away
    again = StandIn(tmp_path, two[0].port)
    two[0] = again
    while not sampler.servers[0].alive:
        time.sleep(0.02)
    assert again.version == "5" and again.fingerprint == two[1].fingerprint


def test_a_server_that_is_silent_is_left_after_the_deadline(two: list[StandIn], opened: Any) -> None:
    sampler = opened(*two, deadline=0.5)
    two[0].faults.append("hangs")
    two[1].faults.append("hangs")
    (answer,) = many(sampler, (PROMPTS[0], LETTERS))
    assert answer.ids == locally(sampler, (PROMPTS[0], LETTERS))[0].ids
    two[0].faults.extend(["hangs"] * 4)
    two[1].faults.extend(["hangs"] * 4)
    with pytest.raises(UserError, match=r"asked 4 times .* no answer within 0.5 s"):
        many(sampler, (PROMPTS[0], LETTERS))


def test_who_waits_for_whom_is_said_when_nobody_is_left(two: list[StandIn], opened: Any) -> None:
    sampler = opened(two[0], deadline=0.6)
    two[0].stop()
    waited = rf"the sampler waited 0.6 s for a vLLM server \({two[0].url}: no vLLM server answers at {two[0].url}\)"
    with pytest.raises(UserError, match=waited):
        many(sampler, (PROMPTS[0], LETTERS))
    two[0] = StandIn(two[0].shared)


def test_a_server_that_comes_back_with_another_model_is_left_and_named(two: list[StandIn], opened: Any) -> None:
    """It is looked for as long as `startup` says; the other serves meanwhile, and alone the reason ends the run."""
    sampler = opened(*two, startup=1.0)
    port = two[0].port
    two[0].stop()
    two[0] = StandIn(two[0].shared, port)
    two[0].module.lm_head.register_forward_hook(lambda _m, _x, out: out * 2)  # type: ignore[union-attr]
    server = sampler.servers[0]
    lost = rf"{two[0].url}: .*serves another model than the learner's.*\(looked for during 1 s\)"
    ends = time.monotonic() + 20
    while not server.lost and time.monotonic() < ends:
        assert many(sampler, (PROMPTS[0], LETTERS))[0].ids
        time.sleep(0.05)
    assert re.fullmatch(lost, server.lost) and not sampler.servers[1].lost
    asked = two[0].said.count("/update_weights")
    time.sleep(0.5)
    assert two[0].said.count("/update_weights") == asked, "nobody looks for it any more"
    two[1].stop()
    began = time.monotonic()
    with pytest.raises(UserError, match=f"no vLLM server is left: {lost}; {two[1].url}: no vLLM server answers"):
        many(sampler, (PROMPTS[0], LETTERS))
    assert time.monotonic() - began < 10
    two[1] = StandIn(two[1].shared)


def test_what_is_wrong_before_anything_is_asked(two: list[StandIn], opened: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"vLLM server {two[0].url} does not accept the token: no"):
        opened(two[0], token="another")
    with pytest.raises(UserError, match=r"no vLLM server answers at http://127\.0\.0\.1:9"):
        module, tokenizer = load.load_model("temper-tiny", device="cpu"), load.load_tokenizer("temper-tiny")
        ServedSampler(module, tokenizer, VLLMServer(urls=("http://127.0.0.1:9",), shared=tmp_path, token=KEY))
    with pytest.raises(UserError, match="urls of vLLM servers need `shared`"):
        VLLMServer(urls=("http://127.0.0.1:9",), token=KEY)
    with pytest.raises(UserError, match="need their token: set TEMPER_VLLM_TOKEN"):
        VLLMServer(urls=("http://127.0.0.1:9",), shared=tmp_path)
    with pytest.raises(UserError, match="servers must be at least 1, got 0"):
        VLLMServer(servers=0)
    assert KEY not in repr(VLLMServer(urls=("http://127.0.0.1:9",), shared=tmp_path, token=KEY))


# the door ----------------------------------------


async def passed(monkeypatch: pytest.MonkeyPatch, path: str, heads: dict[bytes, bytes], *pieces: bytes) -> Any:
    """What a request meets at the guard: its status, or "in" and the body that the server behind it gets."""
    monkeypatch.setenv(vllm_server.TOKEN, KEY)
    sent, got, left = list[Any](), bytearray(), list(pieces)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        while (m := await receive())["type"] == "http.request":
            got.extend(m["body"])
            if not m["more_body"]:
                sent.append({"status": "in"})
                return
        sent.append({"status": "gone"})

    async def receive() -> Any:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(heads.items())}
    await vllm_server.Guard(inner)(scope, receive, send)
    return sent[0].get("status"), bytes(got)


def test_nobody_passes_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {b"Authorization": f"Bearer {KEY}".encode()}
    for path in (
        "/update_weights",
        "/collective_rpc",
        "/pause",
        "/v1/completions",
        "/v1/models",
        "/metrics",
        "//health",
    ):
        for heads in ({}, {b"authorization": b"Bearer x"}, {b"authorization": KEY.encode()}):
            assert asyncio.run(passed(monkeypatch, path, heads, b""))[0] == 401
        assert asyncio.run(passed(monkeypatch, path, mine, b"a", b"b")) == ("in", b"ab")
    assert asyncio.run(passed(monkeypatch, "/health", {}, b""))[0] == "in"


def test_a_large_body_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "BODY", 10)
    mine = {b"authorization": f"Bearer {KEY}".encode()}
    for length in (b"11", b"9" * 30, b"-1", b"x"):
        assert asyncio.run(passed(monkeypatch, "/pause", {**mine, b"content-length": length}, b""))[0] == 413
    assert asyncio.run(passed(monkeypatch, "/pause", mine, b"12345", b"12345"))[0] == "in"
    assert asyncio.run(passed(monkeypatch, "/pause", mine, b"12345", b"12345", b"1"))[0] == "gone"


def test_a_request_that_would_end_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_VLLM_VOCABULARY", "512")
    mine = {b"authorization": f"Bearer {KEY}".encode()}
    good = {"token_ids": [0, 511], "sampling_params": {"max_tokens": 1, "extra_args": {}}}
    bad: list[Any] = [
        [], None, 3, {}, {**good, "token_ids": [512]}, {**good, "token_ids": [-1]}, {**good, "token_ids": [True]},
        {**good, "token_ids": "ab"}, {**good, "token_ids": [1.0]}, {**good, "sampling_params": None},
        {**good, "sampling_params": {"prompt_logprobs": 5}}, {**good, "sampling_params": {"n": 99}},
    ]  # fmt: skip
    for body in (*(json.dumps(b).encode() for b in bad), b"", b"{", b"[" * 99999, b"\xff"):
        assert asyncio.run(passed(monkeypatch, vllm_server.GENERATE, mine, body))[0] == 400
    whole = json.dumps(good).encode()
    assert asyncio.run(passed(monkeypatch, vllm_server.GENERATE, mine, whole[:9], whole[9:])) == ("in", whole)


def test_a_door_to_others_needs_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_server, "installed", lambda: None)
    asked = ["--model", str(tmp_path), "--shared", str(tmp_path)]
    monkeypatch.delenv(vllm_server.TOKEN, raising=False)
    with pytest.raises(UserError, match="set TEMPER_VLLM_TOKEN to a secret"):
        vllm_server.main(asked)
    monkeypatch.setenv(vllm_server.TOKEN, "short")
    with pytest.raises(UserError, match=r"0.0.0.0 can be reached from other machines: .* needs 16 characters"):
        vllm_server.main([*asked, "--host", "0.0.0.0"])
    with pytest.raises(UserError, match="is no directory: the trainer writes weights there"):
        vllm_server.main([*asked, "--shared", str(tmp_path / "none")])
    assert [vllm_server.loopback(h) for h in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


# one request ----------------------------------------


def answered(raw: bytes, hold: float = 0.0, **options: Any) -> Any:
    """What the client makes of these bytes."""

    async def both() -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(raw)
            await writer.drain()
            await asyncio.sleep(hold)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        try:
            return await ask(url, **{"deadline": 5.0, **options})
        finally:
            server.close()

    return asyncio.run(both())


def test_answers_in_every_legal_form() -> None:
    assert answered(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1, 2] and more") == [1, 2]
    assert answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n") == [
        1,
        2,
    ]
    assert answered(b"HTTP/1.0 200\r\n\r\n[1]") == [1]
    assert answered(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") is None


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "IncompleteReadError"),
        (b"SSH-2.0\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1", "IncompleteReadError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n", "invalid literal"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b" " * 101, "larger than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", "larger than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 101, "larger than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{,}", "is not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"[" * 100, "is not JSON"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "Separator is"),
    ],
)
def test_answers_that_cannot_be_used(raw: bytes, why: str) -> None:
    with pytest.raises(Unreachable, match=why):
        answered(raw, limit=100)


def test_silence_refusals_and_closed_doors() -> None:
    with pytest.raises(Unreachable, match=r"no answer within 0.2 s"):
        answered(b"HTTP/1.1 200 OK\r\n", hold=1.0, deadline=0.2)
    with pytest.raises(Refused, match="404: not here") as error:
        answered(b"HTTP/1.1 404 Not Found\r\n\r\n" + json.dumps({"error": {"message": "not\n here"}}).encode())
    assert error.value.status == 404
    with pytest.raises(Unreachable, match="ConnectionRefusedError"):
        asyncio.run(ask("http://127.0.0.1:9/x"))
    with pytest.raises(Unreachable, match="is no http address"):
        asyncio.run(ask("file:///etc/passwd"))
