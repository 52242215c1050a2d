"""The attention function of both sampler and learner: PyTorch's, but one query reads grouped keys once, and a plan in
the place of the mask says which stretches of a row look at which.

transformers repeats the keys of grouped-query models whenever there is a mask; decoding is bound by reading keys, so
that costs a factor of the group's size. Registered under the name "temper".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from temper.models.plan import plan_of

NAME = "temper"
Watcher = Callable[[int, Tensor, Tensor, float | None], None]
WATCH: ContextVar[Watcher | None] = ContextVar("watch", default=None)  # told (layer, query, key, scaling) of every call
CHANGES = ("softcap", "s_aux", "position_bias")  # options that change the result, which `fits` must have kept away


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [rows, heads, n, width]; key, value [rows, kv heads, m, width] -> [rows, n, heads, width]."""
    if any(options.get(name) is not None for name in CHANGES):
        raise NotImplementedError(f"the attention function {NAME!r} has none of {', '.join(CHANGES)}")
    watch = WATCH.get()
    if watch is not None:
        watch(int(module.layer_idx), query, key, scaling)  # type: ignore[call-overload]
    plan = plan_of(attention_mask)
    if plan is not None:
        return plan.attend(query, key, value, partial(_many_queries, scaling=scaling)), None
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[2]]
    if query.shape[2] == 1:
        out = _one_query(query, key, value, attention_mask, scaling)
    else:
        causal = attention_mask is None and (is_causal if is_causal is not None else getattr(module, "is_causal", True))
        out = _many_queries(query, key, value, attention_mask, bool(causal), scaling)
    return out.transpose(1, 2).contiguous(), None


def _many_queries(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scaling: float | None = None
) -> Tensor:
    """In float32 where bfloat16 is asked for: its backward pass is twice as slow in PyTorch's CPU kernel."""
    if mask is not None and query.device.type == "cuda":  # its kernels that take a mask want a key for each query head
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    slow = query.dtype == torch.bfloat16 and query.device.type == "cpu"
    wide = [x.float() for x in (query, key, value)] if slow else [query, key, value]
    with torch.autocast("cpu", enabled=False) if slow else contextlib.nullcontext():
        out = scaled_dot_product_attention(*wide, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=True)
    return out.to(query.dtype)


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    logits = torch.matmul(grouped * (width**-0.5 if scaling is None else scaling), key.transpose(2, 3))
    if mask is not None:  # [rows, 1, 1, m]: true (or 0) where the query may look
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    out = torch.matmul(
        torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(value.dtype), value
    )
    return out.reshape(rows, heads, 1, value.shape[3])


def register() -> str:
    """Make transformers know the function; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def fits(module: Any) -> bool:
    """Only models whose attention is the standard one: sdpa in use, no soft-capped scores, no attention sinks."""
    config = module.config.get_text_config()
    special = ("attention_sink", "sinks")
    standard = getattr(config, "_attn_implementation", None) == "sdpa" and not capped(module)
    return standard and not any(getattr(config, s, None) for s in special)


def capped(module: Any) -> bool:
    """Whether attention scores are soft-capped (Gemma 2), which only transformers' eager attention computes."""
    return bool(getattr(module.config.get_text_config(), "attn_logit_softcapping", None))
