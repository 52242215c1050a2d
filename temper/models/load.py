"""Loading and saving Hugging Face causal language models, tokenizers and adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from temper.backends.base import Lora
from temper.errors import UserError
from temper.models import attention, tiny

BUNDLED = {"temper-tiny": Path(__file__).parent / "temper_tiny"}
RANDOM = "temper-tiny-random"  # the bundled architecture before any training
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def resolve(model: str) -> str:
    """A bundled model's name, a directory, or a hub id (passed on). UserError for a path that does not exist."""
    if model in BUNDLED:
        return str(BUNDLED[model])
    path = Path(model).expanduser()
    if path.is_dir() or (model.count("/") == 1 and not model.startswith((".", "/", "~"))):
        return str(path) if path.is_dir() else model
    raise UserError(
        f"no model at {model!r}: give a directory in Hugging Face format, a hub id, or {', '.join(BUNDLED)}"
    )


def load_tokenizer(model: str) -> Any:
    """The tokenizer with its chat template; UserError when either is missing."""
    from transformers import AutoTokenizer

    if model == RANDOM:
        return tiny.tiny_tokenizer()
    source = resolve(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise UserError(f"model {model!r} has no usable tokenizer ({first_line(error)}): save one into its directory")
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {model!r} has no chat template: set tokenizer.chat_template and save it, "
            "or add chat_template.jinja to the directory"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {model!r} has no end-of-sequence token: set tokenizer.eos_token")
    return tokenizer


def load_model(
    model: str, *, dtype: str = "float32", device: str = "auto", lora: Lora | None = None, checkpointing: bool = False
) -> nn.Module:
    """A causal language model without dropout.

    dtype  "float32"; "bfloat16" computes in bfloat16 over float32 weights (under LoRA the frozen weights are bfloat16)
    """
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    if model == RANDOM:
        return _ready(tiny.tiny_model().to(DTYPES[dtype]), device, checkpointing)
    stored = DTYPES[dtype] if dtype != "bfloat16" or lora is not None else torch.float32
    source = resolve(model)
    adapter = Path(source) / "adapter_config.json"
    try:
        with _quiet():
            if adapter.exists():
                from peft import AutoPeftModelForCausalLM

                module: nn.Module = AutoPeftModelForCausalLM.from_pretrained(source, dtype=stored, is_trainable=True)
            else:
                module = AutoModelForCausalLM.from_pretrained(source, dtype=stored)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load model {model!r}: {first_line(error)}")
    if lora is not None and not adapter.exists():
        module = add_lora(module, lora)
    return _ready(module, device, checkpointing)


def _ready(module: Any, device: str, checkpointing: bool) -> nn.Module:
    """On its device, without dropout, with the CPU's attention function where that fits."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    if checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
        if hasattr(module, "enable_input_require_grads"):
            module.enable_input_require_grads()
    target = pick_device(device)
    if target.type == "cpu" and attention.fits(plain(module)):
        plain(module).set_attn_implementation(attention.register())
    ready: nn.Module = module.to(target).train(checkpointing)
    return ready


def add_lora(module: nn.Module, lora: Lora) -> nn.Module:
    """Wrap with PEFT adapters (float32) whose first output is zero; UserError when PEFT is not installed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("LoRA needs PEFT: pip install 'temper-rl[peft]'")
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        **lora.options,
    )
    try:
        return get_peft_model(module, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {first_line(error)}")


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" takes one GPU when there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def save_model(module: Any, tokenizer: Any, folder: Path) -> None:
    """A Hugging Face directory (or PEFT's layout for adapters), with tokenizer and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        module.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def merge_adapter(model: str, folder: Path) -> None:
    """Write the adapter directory `model` as a full model, its weights added to the base's."""
    module: Any = load_model(model)
    if not hasattr(module, "merge_and_unload"):
        raise UserError(f"{model!r} is not an adapter: there is nothing to merge")
    save_model(module.merge_and_unload(), load_tokenizer(model), folder)


def plain(module: Any) -> Any:
    """The transformers model inside a PEFT wrapper (adapters stay in place), or the model itself."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def context_length(module: Any) -> int:
    """How many positions the model has (a large number where its config does not say)."""
    config = module.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "max_position_embeddings", None) or 1 << 20)


def hidden_width(module: Any) -> int:
    """Width of the hidden states."""
    return int(plain(module).config.get_text_config().hidden_size)


def check_vocabulary(module: Any, tokenizer: Any, model: str) -> None:
    """UserError when the tokenizer has ids that the model has no embedding for."""
    rows = plain(module).get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(f"the tokenizer of {model!r} has {len(tokenizer)} tokens, its model only {rows} embeddings")


def end_ids(module: Any, tokenizer: Any) -> tuple[int, ...]:
    """Token ids that end a turn: the generation config's, and the tokenizer's end-of-sequence."""
    generation = getattr(plain(module), "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys([*ids, tokenizer.eos_token_id]))


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
