"""What runs inside vLLM: Temper's own draws as a logits processor, and weight-transfer engines for any device.

Imported by vLLM's side only: it needs the package.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors
import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from temper.backends.base import SamplingParams, fingerprint
from temper.backends.draw import draw
from temper.backends.local_sampler import _Request
from temper.backends.vllm_server import vocabulary

NAME = "temper"  # of the weight-transfer backend, and of the key in a request's extra arguments
FILES = "temper-files"  # of the one that reads files
PROBE = "probe"  # in place of a request: log-probs behind the last id, nothing drawn
LIVE: dict[int, Any] = {}  # the requests that are running in this process
LONGEST = 2**20  # tokens of an answer that a server accepts
HELD = 4096  # truncated supports that a server keeps for clients that have not asked for them yet
SUPPORTS: OrderedDict[str, list[tuple[int, ...]]] = OrderedDict()


class Draws(LogitsProcessor):  # type: ignore[misc]
    """Draws each token exactly as the local sampler does: the request's own uniform number, inverse transform.

    Id, log-prob and support are written to the request; the row that goes on to vLLM leaves one id possible. So the
    same seed gives the same token wherever it is sampled, and no log-prob mode, truncation or noise of vLLM's counts.
    """

    def __init__(self, config: Any, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, tuple[Any, list[int]]] = {}
        self.tokenizer: Any = None
        self.model: str = config.model_config.model

    @classmethod
    def validate_params(cls, params: Any) -> None:
        """ValueError for a request from the network that is not as `Told` wants it."""
        given = (params.extra_args or {}).get(NAME)
        if given != PROBE and not (isinstance(given, int) and given in LIVE):
            Told.of(given, [])

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, update: Any) -> None:
        process_dict_updates(self.rows, update, self._row)

    def _row(self, params: Any, prompt: Any, said: list[int]) -> tuple[Any, list[int]]:
        given = params.extra_args[NAME]
        return given if given == PROBE else LIVE[given] if isinstance(given, int) else Told.of(given, said), said

    def apply(self, logits: Tensor) -> Tensor:
        asked = {i: request for i, (request, _) in self.rows.items() if i < len(logits)}
        for i, request in asked.items():
            if isinstance(request, Probe):
                request.logits = logits[i].float().cpu().clone()
            elif request == PROBE:
                logits[i] = logits[i].log_softmax(-1)
        rows = [i for i, request in asked.items() if isinstance(request, _Request) and request.open]  # type: ignore[attr-defined]
        if not rows:
            return logits
        for i in rows:
            asked[i].said = self.rows[i][1]
            asked[i].rewind()
        ids, logp, support = draw(logits[rows], [asked[i] for i in rows], [()] * len(rows))
        for n, (i, *drawn) in enumerate(zip(rows, ids, logp, support)):
            asked[i].push(*drawn)
            if isinstance(asked[i], Told) and asked[i].over(self._text):
                ids[n] = min(asked[i].ends)  # the token that is cut off again where the answer is read
        index = torch.tensor(rows, device=logits.device)
        logits[index] = -torch.inf
        logits[index, torch.tensor(ids, device=logits.device)] = torch.tensor(logp, device=logits.device)
        return logits

    def _text(self) -> Any:
        """The tokenizer, read when the first stop string is watched for."""
        if self.tokenizer is None:
            from temper.models.load import load_tokenizer

            self.tokenizer = load_tokenizer(self.model)
        return self.tokenizer


@dataclass
class Probe:
    """Asks for the logits [vocabulary] behind the last id of a prompt."""

    logits: Tensor | None = None


@dataclass(eq=False)
class Told(_Request):
    """A request that came over the network: what was drawn so far is vLLM's own list of its tokens."""

    key: str = ""
    said: list[int] = field(default_factory=list)
    open = True

    @staticmethod
    def of(given: Any, said: list[int]) -> Told:
        """From {key, limit, ends, before, params}, params: SamplingParams' fields. ValueError for anything else."""
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given["params"].items()}
            ids = (*given["ends"], *fields.get("stop_ids", ()), *(fields.get("allowed") or ()))
            before = given.get("before", [])
            whole = (given["limit"], *(fields[k] for k in ("max_tokens", "top_k", "seed", "begun")), *ids, *before)
            words = (given["key"], *fields.get("stop", ()))
            if not all(type(x) is int for x in whole) or not all(type(x) is str and len(x) < 4096 for x in words):
                raise TypeError("a number or a text has another type")
            if not 1 <= given["limit"] <= LONGEST or not 0 <= fields["begun"] <= LONGEST:
                raise ValueError("a limit is out of range")
            if any(not 0 <= i < vocabulary() for i in (*ids, *before)):
                raise ValueError("an id is out of range")
            told = Told((), SamplingParams(**fields), None, 0, key=given["key"], said=said)  # type: ignore[arg-type]
            limits = SimpleNamespace(context=given["limit"], end=tuple(given["ends"]), version=0)
            told.start(limits)  # type: ignore[arg-type]
        except Exception as error:
            raise ValueError(f"this server takes requests of Temper's own sampler: {type(error).__name__}: {error}")
        told.drawn, told.before = said, list(before)
        return told

    def rewind(self) -> None:
        self.drawn = self.said

    def push(self, token: int, logp: float, support: tuple[int, ...] | None) -> bool:
        """Note the support; the token itself is noted by vLLM."""
        if support is not None:
            held = SUPPORTS.setdefault(self.key, [])
            held[len(self.said) :] = [support]
            while len(SUPPORTS) > HELD:
                SUPPORTS.popitem(last=False)
        return False

    def over(self, tokenizer: Any) -> bool:
        """Whether a stop string is there already."""
        return bool(self.params.stop and self.said and self.ends) and self._stopped(tokenizer())


class Extension:
    """What a worker answers to vLLM's collective_rpc, beside its own methods. Importing this module is the point."""

    def temper_fingerprint(self) -> str:
        """Of the trained tensors that arrived last."""
        return str(self.weight_transfer_engine.fingerprint)  # type: ignore[attr-defined]

    def temper_support(self, key: str) -> list[list[int]]:
        """The ids that truncation left at each token of a request; asked for once."""
        return [list(ids) for ids in SUPPORTS.pop(key, [])]


@dataclass
class Nothing(WeightTransferInitInfo):  # type: ignore[misc]
    """There is no connection to make."""


@dataclass
class Parcel(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A whole checkpoint of tensors in this process, by name, and which of them are trained."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    trained: tuple[str, ...] = ()


class Handover(WeightTransferEngine[Nothing, Parcel]):  # type: ignore[misc]
    """vLLM's weight-transfer interface without a transport: the trainer's tensors are copied from where they lie.

    vLLM's own backends go from GPU to GPU (NCCL, CUDA IPC); on a CPU none of them works.
    """

    init_info_cls = Nothing
    update_info_cls: type[WeightTransferUpdateInfo] = Parcel
    fingerprint = ""  # of the trained tensors that arrived last

    def init_transfer_engine(self, init_info: Nothing) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Parcel) -> None:
        arrived = {name: tensor.to(self.device) for name, tensor in update_info.weights.items()}
        self.model.load_weights(iter(arrived.items()))
        self.fingerprint = fingerprint((name, arrived[name]) for name in update_info.trained)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):  # tied to the embedding it gets no weights, and keeps its packed copy
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        pass


@dataclass
class Folder(WeightTransferInitInfo):  # type: ignore[misc]
    """The folder that both sides see: the server's own setting, never the network's."""


@dataclass
class File(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A safetensors file in that folder, the names of what is trained in it, and the number of the transfer."""

    file: str = ""
    trained: list[str] = field(default_factory=list)
    operation: int = 0


class Files(Handover):
    """A whole checkpoint through a file that trainer and server both see: any device, no unpickling, no rendezvous.

    A transfer with a number that was seen already is a late message of one that is over: it is refused.
    """

    init_info_cls = Folder
    update_info_cls = File
    operation = 0

    def receive_weights(self, update_info: File) -> None:
        folder = Path(os.environ["TEMPER_VLLM_SHARED"])
        if update_info.operation <= self.operation:
            raise ValueError(f"transfer {update_info.operation} is over; the last one was {self.operation}")
        if Path(update_info.file).name != update_info.file or not update_info.file.endswith(".safetensors"):
            raise ValueError(f"{update_info.file!r} is not the name of a safetensors file")
        with safetensors.safe_open(folder / update_info.file, "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        super().receive_weights(Parcel(weights, tuple(update_info.trained)))
        self.operation = update_info.operation


for _name, _engine in ((NAME, Handover), (FILES, Files)):
    if _name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(_name, _engine)
