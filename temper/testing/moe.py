"""A mixture of experts small enough for a test: random weights, sharp enough that routing matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_tiny_moe(folder: Path, seed: int = 0, kind: str = "qwen3_moe", scale: float = 0.3, **sizes: Any) -> str:
    """Two layers of eight experts, two for each token, in Hugging Face layout with temper-tiny's tokenizer.

    kind  "qwen3_moe", "mixtral" or "olmoe"; scale: standard deviation of the weights
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from temper.models import load

    tokenizer = load.load_tokenizer("temper-tiny")
    small: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512,
        "num_experts_per_tok": 2, "tie_word_embeddings": False, "initializer_range": scale,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None, "bos_token_id": None,
        **({"num_local_experts": 8} if kind == "mixtral" else {"num_experts": 8}),
        **({"moe_intermediate_size": 32} if kind == "qwen3_moe" else {}), **sizes,
    }  # fmt: skip
    torch.manual_seed(seed)
    module: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small))
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
