"""What runs inside vLLM: Temper's own draws as a logits processor, and a weight-transfer engine for any device.

Imported by vLLM's side only: it needs the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

from temper.backends.base import fingerprint
from temper.backends.local_sampler import _draw

NAME = "temper"  # of the weight-transfer backend, and of the key in a request's extra arguments
LIVE: dict[int, Any] = {}  # the requests that are running in this process


class Draws(LogitsProcessor):  # type: ignore[misc]
    """Draws each token exactly as the local sampler does: the request's own uniform number, inverse transform.

    Id, log-prob and support are written to the request; the row that goes on to vLLM leaves one id possible. So the
    same seed gives the same token wherever it is sampled, and no log-prob mode, truncation or noise of vLLM's counts.
    """

    def __init__(self, config: Any, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, tuple[Any, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, update: Any) -> None:
        process_dict_updates(self.rows, update, _request)

    def apply(self, logits: Tensor) -> Tensor:
        asked = {i: request for i, (request, _) in self.rows.items() if i < len(logits)}
        for i, request in asked.items():
            if isinstance(request, Probe):
                request.logits = logits[i].float().cpu().clone()
        rows = [i for i, request in asked.items() if not isinstance(request, Probe) and request.open]
        if not rows:
            return logits
        for i in rows:
            asked[i].said = self.rows[i][1]
            asked[i].rewind()
        ids, logp, support = _draw(logits[rows], [asked[i] for i in rows], [()] * len(rows))
        for i, *drawn in zip(rows, ids, logp, support):
            asked[i].push(*drawn)
        index = torch.tensor(rows, device=logits.device)
        logits[index] = -torch.inf
        logits[index, torch.tensor(ids, device=logits.device)] = 0.0
        return logits


@dataclass
class Probe:
    """Asks for the logits [vocabulary] behind the last id of a prompt."""

    logits: Tensor | None = None


def _request(params: Any, prompt: Any, said: list[int]) -> tuple[Any, list[int]] | None:
    key = (params.extra_args or {}).get(NAME)
    return None if key is None else (LIVE[key], said)


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
    update_info_cls = Parcel
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


if NAME not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(NAME, Handover)
