"""vLLM servers as the sampler: exact ids and log-probs over HTTP, one set of weights, no server trusted unseen.

The draws are Temper's (`temper.backends.vllm_worker.Draws` runs in each server), so a request that is asked again
elsewhere gives the same tokens. Weights go through a file that both sides see, by vLLM's weight-transfer routes; a
server takes requests only once it has shown the fingerprint of the weights that are due and the learner's own log-probs
behind a probe. The network has a thread and an event loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import tempfile
import threading
import time
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from temper.backends import vllm_servers
from temper.backends.base import Ack, SamplingParams, Weights, check_prompt, fingerprint
from temper.backends.local_sampler import _Request
from temper.backends.vllm import behind_probe, checkpoint
from temper.backends.vllm_servers import Server, VLLMServer
from temper.episode import Completion
from temper.errors import UserError
from temper.gateway.client import Refused, Unreachable
from temper.models import load
from temper.models.load import plain

LOG = logging.getLogger("temper.vllm")
NAME, SHOWN = "temper", 20  # the key of our arguments in a request; log-probs that a probe shows


@dataclass(frozen=True)
class Transfer:
    """Weights as they are handed over, and how to tell that they arrived."""

    version: int
    operation: int
    file: str
    trained: tuple[str, ...]
    fingerprint: str
    probe: list[int]
    logp: Tensor


class ServedSampler:
    """Serves what `module` computes with the weights that it is given; `module` is the learner's.

    max_rows  sequences that each server decodes at once
    """

    streams = False
    apart = True  # servers have copies of the weights

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        settings: VLLMServer,
        *,
        max_rows: int = 1024,
        autocast: torch.dtype | None = None,
    ):
        settings.check()
        self.module, self.tokenizer, self.settings, self.max_rows = module, tokenizer, settings, max_rows
        self.context = load.context_length(module)
        self.end = load.end_ids(module, tokenizer)
        self.vocabulary = plain(module).get_input_embeddings().weight.shape[0]
        self.dtype = autocast or next(module.parameters()).dtype
        self.tolerance = settings.engine.tolerance or (1e-3 if self.dtype == torch.float32 else 0.5)
        self.version = 0
        self.tokens = 0  # sampled so far
        self._keys, self._operation = itertools.count(1), 0
        self._folder = tempfile.TemporaryDirectory(prefix="temper-vllm-")
        self.home = Path(self._folder.name)
        self.shared = settings.shared or self.home / "shared"
        self.shared.mkdir(exist_ok=True)
        self.servers = vllm_servers.of(settings, self.home)
        self._due: Transfer | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._asked: set[_Asked] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-servers", daemon=True)
        self._thread.start()
        try:
            self._due = self._transfer({}, 0)
            self._call(self._open()).result()
        except BaseException:
            self.close()
            raise

    # weights -------------------------------------------------------------------------------------------------------

    async def load(self, weights: Weights, version: int) -> Ack:
        """Serve these weights from the next token on; UserError when no server can show that it does."""
        due = await asyncio.to_thread(self._transfer, weights, version)
        await asyncio.wrap_future(self._call(self._publish(due)))
        arrived = due.fingerprint if set(due.trained) == set(weights) else fingerprint(weights.items())
        return Ack(version, arrived)

    def _transfer(self, weights: Weights, version: int) -> Transfer:
        """Write the whole checkpoint where the servers see it. Adapters are merged: then everything is trained."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint(self.module, weights).items()}
        trained = tuple(weights) if weights and all(name in whole for name in weights) else tuple(whole)
        operation = self._operation = max(self._operation + 1, time.time_ns() // 10**6)  # rises over trainers too
        file = f"weights-{self.home.name[-8:]}-{operation}.safetensors"
        save_file(whole, self.shared / file)
        probe = behind_probe(self.module, self.vocabulary, self.context, weights)
        return Transfer(version, operation, file, trained, fingerprint((n, whole[n]) for n in trained), *probe)

    async def _publish(self, due: Transfer) -> None:
        before, self._due = self._due, due
        told = [s for s in self.servers if s.alive]
        said = await asyncio.gather(*(self._hand_over(s, due) for s in told), return_exceptions=True)
        for server, error in zip(told, said):
            if isinstance(error, UserError):
                raise error
            if isinstance(error, BaseException):
                self._down(server, str(error))
        self.version = due.version
        if before is not None:
            (self.shared / before.file).unlink(missing_ok=True)
        await self._free()  # at least one serves them

    async def _hand_over(self, server: Server, due: Transfer) -> None:
        """Pause, transfer, forget what was computed with the old weights, go on; then see whether it is true."""
        update = {"file": due.file, "trained": list(due.trained), "operation": due.operation}
        await server.ask("/pause?mode=keep", {})
        try:
            await server.ask("/start_weight_update", {})
        except Unreachable:  # a transfer that was cut off is still open
            await server.ask("/finish_weight_update", {})
            await server.ask("/start_weight_update", {})
        await server.ask("/update_weights", {"update_info": update})
        await server.ask("/finish_weight_update", {"weight_version": str(due.version)})
        forgot = await server.ask("/reset_prefix_cache?reset_running_requests=true", {})
        if not isinstance(forgot, dict) or forgot.get("success") is not True:
            raise Unreachable("it did not forget what it had computed with the old weights")
        await server.ask("/resume", {})
        arrived = _field(await server.ask("/collective_rpc", {"method": "temper_fingerprint"}), "results")
        if arrived != [due.fingerprint]:
            raise UserError(f"vLLM server {server.url} got other weights than were sent: {arrived}, {due.fingerprint}")
        gap = await self._gap(server, due)
        if not gap <= self.tolerance:
            raise UserError(
                f"vLLM server {server.url} serves another model than the learner's: their log-probs differ by up to "
                f"{gap:.2g} (tolerance {self.tolerance:g})"
            )
        server.version = due.version

    async def _gap(self, server: Server, due: Transfer) -> float:
        """Largest difference of log-probs behind the probe, among the ids that the server shows."""
        body = {"token_ids": due.probe, "sampling_params": _plain(1, [], "probe", SHOWN)}
        choice = _field(await server.ask("/inference/v1/generate", body), "choices")[0]
        shown = choice["logprobs"]["content"][0]["top_logprobs"]
        return float(max(abs(row["logprob"] - float(due.logp[row["token_id"]])) for row in shown))

    # sampling ------------------------------------------------------------------------------------------------------

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        """Continue `ids`; ContextFull when they fill the context, ValueError for ids that the model does not have.

        UserError when no server answered within the deadline, or as often as was tried.
        """
        check_prompt(ids, params, self.context, self.vocabulary)
        return await asyncio.wrap_future(self._call(self._sample(tuple(ids), params)))

    async def abort(self) -> None:
        """End every sample at once; each returns what it has, with finish "abort"."""
        await asyncio.wrap_future(self._call(self._cut_off()))

    async def _cut_off(self) -> None:
        cut = set(self._asked)
        for request in cut:
            request.unwanted = True
        self._wake(everybody=True)
        while cut & self._asked:  # one that is on its way is not known to its server yet
            for server in [s for s in self.servers if s.alive]:
                with contextlib.suppress(Unreachable, Refused):
                    await server.ask("/abort_requests", {})
            await asyncio.sleep(0.02)

    async def _sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        request = _Asked(ids, params, asyncio.get_running_loop().create_future(), self.version)
        request.start(self)  # type: ignore[arg-type]
        self._asked.add(request)
        try:
            return await self._answered(request)
        finally:
            self._asked.discard(request)

    async def _answered(self, request: _Asked) -> Completion:
        ids, said = request.ids, ""
        for _ in range(1 + self.settings.retries):
            server = await self._free(said, request)
            if server is None:
                request.finish("abort", self.tokenizer)
                return request.future.result()
            call = asyncio.ensure_future(self._once(server, request))
            server.calls.add(call)
            try:
                return await call
            except Unreachable as error:
                said = f"{server.url}: {error}"
                if not await server.healthy():
                    self._down(server, str(error))
            except asyncio.CancelledError:
                if not call.cancelled() or server.alive:
                    raise
                said = f"{server.url}: it went away"
            except Refused as error:
                raise UserError(f"vLLM server {server.url} refuses a request of {len(ids)} tokens: {error}")
            finally:
                server.calls.discard(call)
                call.cancel()
                self._wake()
        times = 1 + self.settings.retries
        raise UserError(f"the sampler asked {times} times for an answer to {len(ids)} tokens; the last time, {said}")

    async def _once(self, server: Server, request: _Asked) -> Completion:
        key, ends = f"{self.home.name}-{next(self._keys)}", sorted(request.ends)
        given = {"key": key, "limit": request.limit, "ends": ends, "before": request.before}
        given["params"] = {k: v for k, v in asdict(request.params).items() if k != "continued"}
        body = {"token_ids": list(request.ids), "sampling_params": _plain(request.limit, ends, given, 0)}
        request.restart()
        answer = await server.ask("/inference/v1/generate", body, limit=2**20 + 1024 * request.limit)
        support = None
        if request.cut:
            told = await server.ask("/collective_rpc", {"method": "temper_support", "kwargs": {"key": key}})
            support = [tuple(map(int, row)) for row in _field(told, "results")[0]]
        try:
            choice = _field(answer, "choices")[0]
            spans, most = choice["weight_versions"], request.limit
            if not all(str(s["version"]).isdigit() for s in spans):
                self._down(server, "it was started again, and serves weights that it was not given")
                raise Unreachable(server.why)
            self._read(request, choice, support)
            versions = tuple(int(s["version"]) for s in spans for _ in range(s["start"], min(s["end"], most)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Unreachable(f"its answer is malformed ({type(error).__name__}: {error})")
        self.tokens += len(request.drawn)
        done = request.future.result()
        mixed = len(set(versions[: len(done.ids)])) > 1
        return replace(done, versions=versions[: len(done.ids)]) if mixed else done

    def _read(self, request: _Asked, choice: dict[str, Any], support: list[tuple[int, ...]] | None) -> None:
        """Take the tokens one by one, as if they were drawn here, until the one that ends the answer."""
        ids, rows = choice["token_ids"], choice["logprobs"]["content"]
        if len(ids) != len(rows) or len(ids) > request.limit:
            raise ValueError(f"{len(ids)} ids, {len(rows)} log-probs, at most {request.limit} were asked for")
        request.version = int(choice["weight_versions"][0]["version"]) if ids else self.version
        for n, (i, row) in enumerate(zip(ids, rows)):
            logp = float(row["logprob"])
            known = type(i) is int and 0 <= i < self.vocabulary and row["token_id"] == i
            if not known or not -math.inf < logp <= 1e-6:
                raise ValueError(f"token {i} with log-prob {logp}")
            request.push(i, logp, support[n] if support is not None else None)
            request.check(self.tokenizer)
            if request.future.done():
                return
        if choice.get("finish_reason") == "abort" and request.unwanted:
            return request.finish("abort", self.tokenizer)
        raise ValueError(f"it ended after {len(ids)} of {request.limit} tokens ({choice.get('finish_reason')})")

    async def _free(self, said: str = "", request: _Asked | None = None) -> Server | None:
        """The server with the weights that are due and the least to do; waits while there is none.

        None when `request` is wanted no more.
        """
        try:
            async with asyncio.timeout(self.settings.deadline):
                while not (able := [s for s in self.servers if s.alive and len(s.calls) < self.max_rows]):
                    if request is not None and request.unwanted:
                        return None
                    if all(s.lost for s in self.servers):
                        raise UserError(f"no vLLM server is left: {'; '.join(s.lost for s in self.servers)}")
                    room = asyncio.get_running_loop().create_future()
                    self._waiting.append(room)
                    try:
                        await room
                    except asyncio.CancelledError:
                        self._wake()  # whoever woke this one may have meant room for somebody
                        raise
                return None if request is not None and request.unwanted else min(able, key=lambda s: len(s.calls))
        except TimeoutError:
            where = ", ".join((s.url or "one that is starting") + (s.why and f": {s.why}") for s in self.servers)
            raise UserError(
                f"the sampler waited {self.settings.deadline:g} s for a vLLM server ({where}){said and f'; {said}'}"
            )

    def _wake(self, everybody: bool = False) -> None:
        """There is room for one more request, or a server came or went."""
        while self._waiting:
            room = self._waiting.popleft()
            if not room.done():
                room.set_result(None)
                if not everybody:
                    return

    # coming and going ----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await asyncio.gather(*(self._bring(s) for s in self.servers))
        for server in self.servers:
            self._later(self._watch(server))

    async def _bring(self, server: Server) -> None:
        """Start it where it is ours, and give it the weights that are due before anybody may ask it."""
        if server.home is not None:
            model = self.home / "model"
            if not model.exists():
                model.mkdir()
                plain(self.module).config.save_pretrained(model)
                self.tokenizer.save_pretrained(model)
            await server.start(self._given(), model, self.shared)
        elif not await server.healthy():
            raise UserError(f"no vLLM server answers at {server.url}")
        while server.version is None or self._due is None or server.version != self._due.version:
            assert self._due is not None
            await self._hand_over(server, self._due)
        server.alive, server.why = True, ""
        self._wake(everybody=True)

    def _given(self) -> dict[str, Any]:
        engine = self.settings.engine
        return {
            "dtype": str(self.dtype).removeprefix("torch."), "max_model_len": self.context,
            "max_num_seqs": self.max_rows,
            "block_size": engine.block, "enforce_eager": engine.eager,
            "kv_cache_memory_bytes": int(engine.cache * 2**30), **engine.options,
        }  # fmt: skip

    async def _watch(self, server: Server) -> None:
        """Look at its health; three looks that fail, or the end of its process, are its end."""
        missed = 0
        while True:
            await asyncio.sleep(self.settings.heartbeat)
            if not server.alive:
                continue
            ended = server.process is not None and server.process.poll() is not None
            missed = 0 if not ended and await server.healthy() else missed + 1
            if ended or missed >= 3:
                self._down(server, "its process ended" if ended else f"it missed {missed} looks at its health")
                missed = 0

    def _down(self, server: Server, why: str) -> None:
        """Ask it nothing any more; what it was asked is asked elsewhere, and somebody looks whether it comes back."""
        if not server.alive:
            return
        server.alive, server.version, server.why = False, None, why
        for call in list(server.calls):
            call.cancel()
        self._later(self._revive(server, why))

    async def _revive(self, server: Server, why: str) -> None:
        """Start ours again, `restarts` times; look for one elsewhere during `startup` seconds. Then it is lost."""
        clock = asyncio.get_running_loop().time
        ends = clock() + self.settings.startup
        while True:
            server.why = " ".join(why.split())
            try:
                if server.home is not None:
                    await asyncio.to_thread(server.kill)
                    if server.starts > self.settings.restarts:
                        return self._lose(server, f"{server.starts} starts")
                elif clock() >= ends:
                    return self._lose(server, f"looked for during {self.settings.startup:g} s")
                await self._bring(server)
                return
            except (UserError, Unreachable, Refused) as error:
                why = str(error)
                await asyncio.sleep(self.settings.heartbeat)

    def _lose(self, server: Server, tried: str) -> None:
        server.lost = f"{server.url}: {server.why} ({tried})"
        LOG.warning("a vLLM server is left for good: %s", server.lost)
        self._wake(everybody=True)

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """End the servers that were started here, and everything that waits for one."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._call(end()).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        for server in self.servers:
            server.kill(gently=True)
        if self._due is not None:
            (self.shared / self._due.file).unlink(missing_ok=True)
        self._folder.cleanup()


@dataclass(eq=False)
class _Asked(_Request):
    """A request at a server. unwanted: what it has is to be returned."""

    unwanted: bool = False

    def restart(self) -> None:
        """Forget what an answer that could not be used left."""
        self.drawn.clear()
        self.logp.clear()
        self.support.clear()


def _plain(limit: int, ends: list[int], given: Any, shown: int) -> dict[str, Any]:
    """vLLM's own parameters: greedy, since Draws leaves one id possible; its log-prob is in the place of the logit."""
    return {
        "max_tokens": limit, "temperature": 0.0, "stop_token_ids": ends, "ignore_eos": True, "detokenize": False,
        "logprobs": shown, "extra_args": {NAME: given},
    }  # fmt: skip


def _field(answer: Any, name: str) -> Any:
    if not isinstance(answer, dict) or not isinstance(answer.get(name), list) or not answer[name]:
        raise Unreachable(f"its answer has no {name}: {str(answer)[:100]}")
    return answer[name]
