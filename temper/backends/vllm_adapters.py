"""LoRA adapters sent to vLLM as adapters, through a folder that it reads, instead of merged into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from temper.backends.base import Weights, fingerprint
from temper.models.load import plain

ROOMS = (8, 16, 32, 64, 128, 256, 320, 512)  # ranks that vLLM makes room for
NAME = "temper"


def room(module: Any) -> int | None:
    """The rank that vLLM has to make room for; None where there are no adapters, or some that have to be merged.

    Merged are those with more than two matrices at a linear layer of the decoder: DoRA, biases, whole modules, an
    adapted embedding or head, and ranks above 512.
    """
    if module is plain(module):
        return None
    trained = [n for n, p in module.named_parameters() if p.requires_grad]
    configs = [module.peft_config[a] for a in module.active_adapters]
    plainly = len(configs) == 1 and not getattr(configs[0], "use_dora", False) and not configs[0].modules_to_save
    apart = all(".lora_A." in n or ".lora_B." in n for n in trained) and not any("lm_head" in n for n in trained)
    need = max([configs[0].r, *(getattr(configs[0], "rank_pattern", None) or {}).values()], default=0) if configs else 0
    return next((r for r in ROOMS if r >= need), None) if plainly and apart else None


def base(module: Any) -> dict[str, Tensor]:
    """The weights under the adapters, by their names in a checkpoint."""
    named = plain(module).named_parameters()
    return {n.replace(".base_layer.", "."): p.detach() for n, p in named if "lora_" not in n}


def write(module: Any, weights: Weights, folder: Path) -> str:
    """`weights` as PEFT saves adapters, in `folder`; the fingerprint of what can be read there, by their own names."""
    (adapter,) = module.active_adapters
    module.peft_config[adapter].save_pretrained(folder)
    file, named = folder / "adapter_model.safetensors", {n: n.replace(f".{adapter}.", ".") for n in weights}
    save_file({named[n]: w.detach().cpu().contiguous() for n, w in weights.items()}, file)
    there = load_file(file)
    return fingerprint((n, there[named[n]]) for n in weights)


@torch.inference_mode()
def trained(module: Any) -> dict[str, Tensor]:
    """The adapters' own weights."""
    return {n: p.detach() for n, p in module.named_parameters() if "lora_" in n}
