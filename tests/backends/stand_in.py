"""A stand-in for a vLLM server: the same routes, answered by the local sampler, and faults on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from temper.backends.base import SamplingParams, fingerprint
from temper.backends.local_sampler import LocalSampler
from temper.gateway.errors import ApiError
from temper.gateway.http import Limits, Request, Response, Server
from temper.models import load

KEY = "a-key-for-tests"


class StandIn:
    """Listens in a thread of its own.

    faults  what befalls the next answers, one each
    said    the paths that were asked for, in order
    deaf    it takes new weights without using them
    """

    def __init__(self, shared: Path, port: int = 0):
        self.module = load.load_model("temper-tiny-random", device="cpu")
        self.sampler = LocalSampler(self.module, load.load_tokenizer("temper-tiny"))
        self.shared, self.faults, self.said = shared, deque[str](), list[str]()
        self.deaf, self.version, self.fingerprint, self.working = False, "default", "", 0
        self.supports: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.server = Server(self._handle, Limits(body=2**20))
        self.port = self._run(self.server.start("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.port}"

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def stop(self) -> None:
        self._run(self.server.closed())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _handle(self, request: Request) -> Response:
        self.said.append(request.path)
        if request.path == "/health":
            return Response(b"")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            raise ApiError(401, "no")
        body = json.loads(request.body or b"null")
        if request.path == "/inference/v1/generate":
            return await self._generate(body)
        return Response(json.dumps(self._control(request.path, body)).encode())

    def _control(self, path: str, body: Any) -> Any:
        if path == "/update_weights" and not self.deaf:
            weights = load_file(self.shared / body["update_info"]["file"])
            self.fingerprint = fingerprint((n, weights[n]) for n in body["update_info"]["trained"])
            with torch.no_grad():
                for name, p in self.module.named_parameters():
                    p.copy_(weights[name])
        if path == "/finish_weight_update":
            self.version = body["weight_version"]
        if path == "/collective_rpc":
            key = body.get("kwargs", {}).get("key")
            return {"results": [self.supports.pop(key) if key else self.fingerprint]}
        return {"success": True}

    async def _generate(self, body: Any) -> Response:
        given, ids = body["sampling_params"]["extra_args"]["temper"], tuple(body["token_ids"])
        if given == "probe":
            logp = self.module(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).tolist()
            top = [{"token_id": i, "logprob": logp[i]} for i in sorted(range(len(logp)), key=logp.__getitem__)[-20:]]
            return self._answer([0], [0.0], top)
        fault = self.faults.popleft() if self.faults else ""
        self.working += 1
        try:
            if fault == "hangs":
                await asyncio.sleep(60)
            p = {k: tuple(v) if isinstance(v, list) else v for k, v in given["params"].items()}
            c = await self.sampler.sample(ids, SamplingParams(**p))
        finally:
            self.working -= 1
        self.supports[given["key"]] = c.support
        out, logp = list(c.ids), list(c.logp)
        if fault == "is cut short":
            return await self._cut_short(out[:5], logp[:5])
        if fault in ("ends early", "is of another token", "has no log-prob"):
            out = {"ends early": out[:-1], "is of another token": [9999, *out[1:]]}.get(fault, out)
            logp = [float("nan")] * len(out) if fault == "has no log-prob" else logp[: len(out)]
        body_of: dict[str, Any] = {
            "is no JSON": b"<html>", "is not an answer": b"[]", "is too large": b" " * 3 * 2**20, "is cut off": _cut(),
        }  # fmt: skip
        if fault in body_of:
            return Response(body_of[fault])
        return Response(b"{}", 500) if fault == "is an error" else self._answer(out, logp)

    async def _cut_short(self, out: list[int], logp: list[float]) -> Response:
        """What it has when somebody asks it to stop."""
        self.working += 1
        while "/abort_requests" not in self.said:
            await asyncio.sleep(0.01)
        self.working -= 1
        return self._answer(out, logp, finish="abort")

    def _answer(self, ids: list[int], logp: list[float], top: Any = (), finish: str = "stop") -> Response:
        rows = [{"token_id": i, "logprob": x, "top_logprobs": top} for i, x in zip(ids, logp)]
        span = [{"version": self.version, "start": 0, "end": len(ids)}]
        choice = {"token_ids": ids, "logprobs": {"content": rows}, "weight_versions": span, "finish_reason": finish}
        return Response(json.dumps({"choices": [choice]}).encode())


async def _cut() -> AsyncIterator[bytes]:
    yield b'{"choices": ['
    raise RuntimeError("the server dies here")
