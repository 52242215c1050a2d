"""vLLM as the sampler, in this process: its engine computes and schedules, Temper draws.

Ids, log-probs, truncation, stop strings and finish reasons come from the local sampler's own code, applied to vLLM's
logits (`temper.backends.vllm_worker.Draws`): the same seed gives the same token, and its log-prob is that of the
distribution it was drawn from. Only the logits differ, by rounding. New weights go in through vLLM's weight-transfer
interface, and are acknowledged when the engine's log-probs behind a fixed probe are those of the learner's module.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temper.backends import vllm_adapters
from temper.backends.base import Ack, SamplingParams, Weights, check_prompt, fingerprint
from temper.backends.local_sampler import _Request, _settle
from temper.episode import Completion
from temper.errors import UserError
from temper.models import load
from temper.models.load import plain

INSTALL = "the vLLM sampler needs vLLM: pip install vllm (on a CPU: make vllm, see docs/how-to-backends.md)"
PROBE = 24  # tokens
OPEN: list[Any] = []  # engines of this process
CLOSED: list[Any] = []
KEYS = itertools.count(1)  # of requests, over all engines of the process


def installed() -> None:
    """UserError where the package is not there; nothing is imported."""
    if find_spec("vllm") is None:
        raise UserError(INSTALL)


def cannot(error: Exception) -> UserError:
    """vLLM's own words about a model or a setting, in one line."""
    said = [str(e["msg"]).splitlines()[0] for e in getattr(error, "errors", list)()] or [load.first_line(error)]
    return error if isinstance(error, UserError) else UserError(f"vLLM cannot serve this model: {'; '.join(said)}")


@dataclass(frozen=True)
class VLLM:
    """How a policy is served by vLLM: `Policy(engine=VLLM(…))`; "vllm" stands for the defaults.

    cache      GiB for keys and values
    block      tokens in a block of the cache: what whole blocks have in common is computed once
    eager      run the model as it is written; False compiles it, which takes minutes and pays off in long runs
    tolerance  largest difference between the engine's log-probs and the learner's after new weights (None: 1e-3, and
               0.5 in bfloat16); above it the run stops
    lora       LoRA adapters are sent as adapters where vLLM takes them as they are (`temper.backends.vllm_adapters`);
               False: merged into the weights that they adapt
    options    further fields of vLLM's EngineArgs, by name
    """

    cache: float = 1.0
    block: int = 32
    eager: bool = True
    tolerance: float | None = None
    lora: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """UserError where vLLM is not installed."""
        installed()

    def sampler(self, module: Any, tokenizer: Any, **fields: Any) -> VLLMSampler:
        return VLLMSampler(module, tokenizer, self, **fields)


class VLLMSampler:
    """Serves what `module` computes with the weights that it is given; `module` is the learner's.

    max_rows  sequences decoded at once; more wait
    """

    streams = True  # `sample` takes `heard`
    apart = True  # the engine has its own copy of the weights

    def __init__(
        self, module: Any, tokenizer: Any, settings: VLLM, *, max_rows: int = 1024, autocast: torch.dtype | None = None
    ):
        self.module, self.tokenizer, self.settings = module, tokenizer, settings
        self.context = load.context_length(module)
        self.end = load.end_ids(module, tokenizer)
        self.vocabulary = plain(module).get_input_embeddings().weight.shape[0]
        self.version = 0
        self.tokens = 0  # sampled so far
        self.dtype = autocast or next(module.parameters()).dtype
        self.tolerance = settings.tolerance or (1e-3 if self.dtype == torch.float32 else 0.5)
        self._waiting: deque[_Served] = deque()
        self._running: list[_Served] = []
        self._driver: asyncio.Task[None] | None = None
        self._rank = vllm_adapters.room(module) if settings.lora else None
        self._adapters = tempfile.TemporaryDirectory(prefix="temper-lora-")
        self._pushed = False  # the weights under the adapters, which do not change
        self._thread = ThreadPoolExecutor(1, "vllm")  # the engine is used from this thread only
        self._engine = self._thread.submit(self._open, max_rows).result()
        try:
            self._thread.submit(self._push, {}).result()
        except Exception as error:
            self.close()
            raise cannot(error) from error

    # weights -------------------------------------------------------------------------------------------------------

    async def load(self, weights: Weights, version: int) -> Ack:
        """Serve these weights from the next token on; what was computed with the old ones is forgotten.

        UserError when the engine's log-probs are then not those of the learner's module.
        """
        served = await self._alone(self._push, weights)
        self.version = version
        return Ack(version, served)

    def _push(self, weights: Weights) -> str:
        """Hand the checkpoint or the adapters over; the fingerprint of what arrived of `weights`."""
        engine = self._engine
        if self._rank is None:
            served = self._whole(checkpoint(self.module, weights), weights)
        else:
            if not self._pushed:
                self._whole(vllm_adapters.base(self.module), {})
            self._pushed, given = True, weights or vllm_adapters.trained(self.module)
            served = vllm_adapters.write(self.module, given, Path(self._adapters.name))
            if not engine.add_lora(self._lora(load_inplace=True)):
                raise RuntimeError("vLLM did not take the adapters")
        if not engine.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM did not forget what it had computed with the old weights")
        gap = self._gap(weights)
        if not gap <= self.tolerance:
            raise UserError(
                f"vLLM serves another model than the learner's: their log-probs differ by up to {gap:.2g} "
                f"(tolerance {self.tolerance:g})"
            )
        return served

    def _whole(self, whole: Weights, weights: Weights) -> str:
        """All weights through vLLM's weight transfer."""
        engine, trained = self._engine, tuple(name for name in weights if name in whole)
        engine.collective_rpc("start_weight_update")
        engine.collective_rpc("update_weights", kwargs={"update_info": {"weights": whole, "trained": trained}})
        engine.collective_rpc("finish_weight_update")
        arrived: str = engine.collective_rpc(_fingerprint)[0]
        return arrived if len(trained) == len(weights) else fingerprint(weights.items())  # adapters were merged

    def _lora(self, **options: Any) -> Any:
        """What names the adapters to vLLM; None where there are none of their own."""
        if self._rank is None or not self._pushed:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(vllm_adapters.NAME, 1, self._adapters.name, **options)

    def _gap(self, weights: Weights) -> float:
        """Largest difference of log-probs behind the probe, between the engine and the module, of ids above e⁻¹⁵."""
        from temper.backends.vllm_worker import LIVE, Probe

        ids, mine = behind_probe(self.module, self.vocabulary, self.context, weights)
        probe, key = Probe(), next(KEYS)
        self._add(key, ids, 1, (), probe)
        while probe.logits is None:
            self._step()
        del LIVE[key]
        theirs = probe.logits[: self.vocabulary].log_softmax(-1)
        return float((mine - theirs).abs()[mine > -15].max())

    def _add(self, key: int, ids: Sequence[int], max_tokens: int, ends: Iterable[int], request: Any) -> None:
        """Hand `request` to the engine: greedy there, since Draws leaves one id possible."""
        from vllm import SamplingParams as Theirs
        from vllm.sampling_params import RequestOutputKind

        from temper.backends.vllm_worker import LIVE, NAME

        params = Theirs(
            max_tokens=max_tokens, temperature=0.0, stop_token_ids=list(ends), ignore_eos=True, detokenize=False,
            extra_args={NAME: key}, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        LIVE[key] = request
        self._engine.add_request(str(key), {"prompt_token_ids": list(ids)}, params, lora_request=self._lora())

    # sampling ------------------------------------------------------------------------------------------------------

    async def sample(
        self, ids: tuple[int, ...], params: SamplingParams, heard: Callable[[int], None] | None = None
    ) -> Completion:
        """Continue `ids`; ContextFull when they fill the context, ValueError for ids that the model does not have.

        heard  is called with every token as it is drawn, but not with the one that ends the answer
        """
        check_prompt(ids, params, self.context, self.vocabulary)
        loop = asyncio.get_running_loop()
        request = _Served(tuple(ids), params, loop.create_future(), self.version, heard, key=next(KEYS))
        self._waiting.append(request)
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        return await request.future

    async def abort(self) -> None:
        """End every sample at once; each returns what it has, with finish "abort"."""
        while self._waiting:
            request = self._waiting.popleft()
            request.start(self)  # type: ignore[arg-type]
            request.finish("abort", self.tokenizer)
        for request in await self._alone(self._cut_off):
            request.tell(self.tokenizer)

    def _cut_off(self) -> list[_Served]:
        """Take what runs from the engine, as if each had ended."""
        took = list(self._running)
        for request in took:
            request.reason = request.reason or "abort"
        self._drop(took)
        return took

    async def _drive(self) -> None:
        try:
            while self._waiting or self._running:
                await _settle(3)
                for request in await self._alone(self._turn):
                    request.tell(self.tokenizer)
        except BaseException as error:
            left = [*self._running, *self._waiting]
            self._waiting.clear()
            for request in left:
                if not request.future.done():
                    request.future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise

    async def _alone(self, job: Callable[..., Any], *args: Any) -> Any:
        """Run it in the engine's thread; the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *args)

    def _turn(self) -> list[_Served]:
        """Drop what was cancelled, add what waits, compute one token of everything that runs; all that took part."""
        self._drop([r for r in self._running if r.future.done()])
        while self._waiting:
            request = self._waiting.popleft()
            if not request.future.done():
                request.start(self)  # type: ignore[arg-type]
                self._running.append(request)
                try:
                    self._add(request.key, request.ids, request.limit, request.ends, request)
                except Exception as error:  # vLLM refuses this one
                    request.error = error
        took = list(self._running)
        self._drop([r for r in took if r.error is not None])
        if self._running:
            self._step()
            self._drop([r for r in took if r.reason])
        return took

    def _step(self) -> None:
        outs = self._engine.step()
        for request in self._running:
            self.tokens += request.settle(self.tokenizer)
        for out in outs:
            self._same(out)

    def _drop(self, requests: list[_Served]) -> None:
        from temper.backends.vllm_worker import LIVE

        self._engine.abort_request([str(r.key) for r in requests])
        for request in requests:
            LIVE.pop(request.key, None)
        self._running = [r for r in self._running if r not in requests]

    def _same(self, out: Any) -> None:
        """What vLLM says it generated is what was drawn."""
        drawn = next((r.drawn for r in self._running if str(r.key) == out.request_id), None)
        if drawn is not None and list(out.outputs[0].token_ids) != drawn:
            raise RuntimeError(f"vLLM returned other ids than were drawn: {out.outputs[0].token_ids} and {drawn}")

    # opening and closing -------------------------------------------------------------------------------------------

    def _open(self, max_rows: int) -> Any:
        """An engine of the module's architecture; its weights come with the first push."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        threads = torch.set_num_threads
        try:
            from vllm import EngineArgs, LLMEngine

            from temper.backends.vllm_worker import NAME, Draws
        except ImportError as error:
            raise UserError(f"{INSTALL}; the one that is here does not load: {load.first_line(error)}")
        with tempfile.TemporaryDirectory() as folder:
            plain(self.module).config.save_pretrained(folder)
            given = {
                "model": folder, "load_format": "dummy", "dtype": str(self.dtype).removeprefix("torch."),
                "skip_tokenizer_init": True, "generation_config": "vllm", "max_model_len": self.context,
                "max_num_seqs": max_rows, "block_size": self.settings.block, "enforce_eager": self.settings.eager,
                "kv_cache_memory_bytes": int(self.settings.cache * 2**30), "enable_prefix_caching": True,
                "async_scheduling": False, "logits_processors": [Draws], "weight_transfer_config": {"backend": NAME},
                "disable_log_stats": True, **self._room(), **self.settings.options,
            }  # fmt: skip
            try:
                engine = LLMEngine.from_engine_args(EngineArgs(**given))
            except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
                raise cannot(error)
            finally:
                torch.set_num_threads = threads  # vLLM takes it away
        engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
        OPEN.append(engine)
        return engine

    def _room(self) -> dict[str, Any]:
        """Engine arguments for adapters."""
        return {"enable_lora": True, "max_lora_rank": self._rank, "max_loras": 1} if self._rank else {}

    def close(self) -> None:
        """Free the engine's memory; where there are several, when the last is closed: they share process groups."""
        self._thread.submit(self._drop, list(self._running)).result()
        CLOSED.append(self._engine)
        OPEN.remove(self._engine)
        while CLOSED and not OPEN:
            self._thread.submit(CLOSED.pop().engine_core.shutdown).result()
        self._thread.shutdown()
        self._adapters.cleanup()


@dataclass(eq=False)
class _Served(_Request):
    """A request whose tokens are drawn in the engine's thread, and told in the event loop's."""

    key: int = 0
    told: int = 0
    settled: int = 0
    reason: str = ""
    error: Exception | None = None
    said: list[int] = field(default_factory=list)  # vLLM's own list of the tokens that it took

    @property
    def open(self) -> bool:
        return not self.reason

    def rewind(self) -> None:
        """Forget what was drawn and not taken: behind a part of a prompt vLLM asks too, and drops the answer."""
        del self.drawn[len(self.said) :], self.logp[len(self.said) :], self.support[len(self.said) :]

    def settle(self, tokenizer: Any) -> int:
        """After a step: whether the token that vLLM took ends the answer; how many it took (0 or 1)."""
        if self.reason or self.error is not None:
            return 0
        self.rewind()
        new, self.settled = len(self.drawn) - self.settled, len(self.drawn)
        if new and (self.drawn[-1] in self.ends or self._stopped(tokenizer)):
            self.reason = "stop"
        elif new and len(self.drawn) >= self.limit:
            self.reason = "length"
        return new

    def tell(self, tokenizer: Any) -> None:
        if self.heard is not None:
            for token in self.drawn[self.told :]:
                if token not in self.ends:
                    self.heard(token)
        self.told = len(self.drawn)
        if self.error is not None and not self.future.done():
            self.future.set_exception(self.error)
        elif self.reason:
            self.finish(self.reason, tokenizer)


@torch.inference_mode()
def behind_probe(module: Any, vocabulary: int, context: int, weights: Weights) -> tuple[list[int], Tensor]:
    """A fixed prompt, and the log-probs [vocabulary] behind it of `module` with `weights` in it."""
    ids = [(7919 * n + 13) % vocabulary for n in range(min(PROBE, context - 1))]
    device = next(module.parameters()).device
    given = (), {"input_ids": torch.tensor([ids], device=device)}
    logits = torch.func.functional_call(module, dict(weights), *given).logits[0, -1].float().cpu()
    return ids, logits[:vocabulary].log_softmax(-1)


@torch.no_grad()
def checkpoint(module: Any, weights: Weights) -> dict[str, Tensor]:
    """Every weight of `module` under its name in a checkpoint: those of `weights`, adapters added to what they adapt.

    UserError for adapters that cannot be added (those of another module than a linear layer's weight).
    """
    if module is plain(module):
        return {name: weights.get(name, tensor).detach() for name, tensor in module.named_parameters()}
    whole = {}
    layers = {name: m for name, m in plain(module).named_modules() if hasattr(m, "get_delta_weight")}
    for name, tensor in plain(module).named_parameters():
        owner, _, rest = name.partition(".base_layer.")
        if rest and rest == "weight":
            delta = sum(layers[owner].get_delta_weight(a) for a in layers[owner].active_adapters)
            whole[f"{owner}.weight"] = tensor + delta.to(tensor.dtype)
        elif "lora_" not in name:
            whole[name.replace(".base_layer.", ".")] = tensor.detach()
    return whole


def _fingerprint(worker: Any) -> str:
    return str(worker.weight_transfer_engine.fingerprint)
