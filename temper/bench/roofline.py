"""What sampling needs at least: its matrix products, and nothing else, on this machine.

Counted are, for every step of decoding, the products of all weight matrices with one vector for each row that still
runs, and the two products of attention over the keys and values of its context, each layer with a cache of its own; for
prompts, the same once for each distinct prompt. Not counted: norms, activations, softmax, the draw, copies.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from temper import streams
from temper.backends.base import SamplingParams
from temper.bench.workloads import Workload
from temper.policy import Policy


def sampling(model: str, workload: Workload, repeats: int = 5) -> dict[str, float]:
    """{"sampling/needed": CPU seconds of our sampler for one step's first turns over those of the bare products}."""
    torch.set_num_threads(1)
    policy = Policy(model=model, trainable=False, device="cpu")
    policy.open()
    ratios, rates = [], []
    for n in range(repeats + 1):
        texts = workload.prompts()[: workload.groups]
        prompts = [tuple(policy.tokenizer.encode(t)) for t in texts for _ in range(workload.attempts)]
        began = time.process_time()
        lengths = asyncio.run(_sample(policy, prompts, workload.answer, n))
        ours = time.process_time() - began
        bare = products(policy.sampler.module, prompts, lengths)
        ratios.append(ours / bare)
        rates.append(sum(lengths) / ours)
    policy.close()
    return {"ratio": statistics.median(ratios[1:]), "low": min(ratios[1:]), "high": max(ratios[1:])}


async def _sample(policy: Policy, prompts: Sequence[tuple[int, ...]], most: int, n: int) -> list[int]:
    asked = [
        policy.sampler.sample(p, SamplingParams(max_tokens=most, seed=streams.key(0, "bench", n, k)))
        for k, p in enumerate(prompts)
    ]
    return [len(c.ids) for c in await asyncio.gather(*asked)]


@torch.inference_mode()
def products(module: Any, prompts: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> float:
    """CPU seconds of the products that answers of `lengths` to `prompts` need."""
    weights = [w for n, w in module.named_parameters() if w.dim() == 2 and "embed_tokens" not in n]
    if module.config.tie_word_embeddings:
        weights.append(module.get_input_embeddings().weight)
    layers, inner, head = _parts(module, weights)
    kv, width = module.config.num_key_value_heads, module.config.head_dim
    grouped = module.config.num_attention_heads // kv
    rows, longest = len(prompts), max(map(len, prompts)) + max(lengths)
    stores = [(torch.zeros(rows, kv, longest, width), torch.zeros(rows, kv, longest, width)) for _ in range(layers)]
    distinct = list(dict.fromkeys(prompts))
    tokens = sum(map(len, distinct))
    began = time.process_time()
    for w in inner:
        linear(_input(tokens, w), w)
    first = _input(len(distinct), head)
    linear(first, head)
    for prompt in distinct:
        q, k = torch.zeros(kv, grouped * len(prompt), width), torch.zeros(kv, len(prompt), width)
        for _ in range(layers):
            (q @ k.transpose(1, 2)) @ k
    context = max(map(len, prompts))
    for t in range(1, max(lengths)):
        running = sum(n > t for n in lengths)
        for w in (*inner, head):
            linear(_input(running, w), w)
        query = torch.zeros(running, kv, grouped, width)
        for keys, values in stores:
            (query @ keys[:running, :, : context + t].transpose(2, 3)) @ values[:running, :, : context + t]
    return time.process_time() - began


def _parts(module: Any, weights: list[Tensor]) -> tuple[int, list[Tensor], Tensor]:
    head = module.get_output_embeddings().weight
    return module.config.num_hidden_layers, [w for w in weights if w is not head], head


_ZEROS: dict[tuple[int, int], Tensor] = {}


def _input(rows: int, weight: Tensor) -> Tensor:
    return _ZEROS.setdefault((rows, weight.shape[1]), torch.zeros(rows, weight.shape[1]))
