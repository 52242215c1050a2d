"""Loading and saving Hugging Face causal language models, tokenizers and adapters."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
    if path.is_file():
        raise UserError(f"{model!r} is a file: give the directory that it is in")
    if path.is_dir() and not any((path / f"{kind}config.json").exists() for kind in ("", "adapter_")):
        inside = [path / p for p in ("model", "checkpoints/latest/model") if (path / p).is_dir()]
        hint = f"did you mean {inside[0]}?" if inside else "it has no config.json"
        raise UserError(f"{model!r} is no model directory: {hint}")
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
    if (base := _base_of(source)) and not (Path(source) / "tokenizer_config.json").exists():
        source = resolve(base)  # adapters are often published without a tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        if not Path(source).exists():
            raise UserError(f"no directory {model!r} here, and the hub does not give such a model: {first_line(error)}")
        raise UserError(f"model {model!r} has no usable tokenizer ({first_line(error)}): save one into its directory")
    if not tokenizer.encode("a 1", add_special_tokens=False):  # made up from the model's type, without a vocabulary
        raise UserError(f"model {model!r} has no usable tokenizer (no vocabulary): save one into its directory")
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
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    if model == RANDOM:
        made: Any = tiny.tiny_model()
        return _ready(made.to(DTYPES[dtype]), device, checkpointing)
    source = resolve(model)
    base = _base_of(source)
    stored = DTYPES[dtype] if dtype != "bfloat16" or lora is not None or base is not None else torch.float32
    try:
        with _quiet():
            module = _with_adapter(source, resolve(base), stored, lora) if base else _full(source, stored)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load model {model!r}: {first_line(error)}")
    if lora is not None and base is None:
        module = add_lora(module, lora)
    return _ready(module, device, checkpointing)


def _full(source: str, stored: torch.dtype) -> nn.Module:
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    module, found = auto.from_pretrained(
        source, dtype=stored, output_loading_info=True, ignore_mismatched_sizes=True
    )  # fmt: skip
    _complete(found)
    loaded: nn.Module = module
    return loaded


def _complete(found: Any) -> None:
    """ValueError when weights that the model needs are not in its files (transformers would draw them at random)."""
    lost = sorted(found["missing_keys"])
    wrong = sorted(str(m[0] if isinstance(m, tuple) else m) for m in found["mismatched_keys"])
    for names, what in ((lost, "missing from its files"), (wrong, "of another shape than its config says")):
        if names:
            raise ValueError(
                f"{len(names)} weights are {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
            )


def _base_of(source: str) -> str | None:
    """The model that an adapter directory belongs to; None for a full model."""
    config = Path(source) / "adapter_config.json"
    return str(json.loads(config.read_text())["base_model_name_or_path"]) if config.exists() else None


def is_adapter(model: str) -> bool:
    """Whether `model` names an adapter directory."""
    return model != RANDOM and _base_of(resolve(model)) is not None


def _with_adapter(source: str, base: str, stored: torch.dtype, lora: Lora | None) -> nn.Module:
    """The base with the directory's adapter on it, which goes on training."""
    peft = _peft()
    rank = getattr(peft.PeftConfig.from_pretrained(source), "r", None)
    if lora is not None and lora.rank != rank:
        raise ValueError(f"its adapter has rank {rank}: ask for that, or for none, not for {lora.rank}")
    module: nn.Module = peft.PeftModel.from_pretrained(_full(base, stored), source, is_trainable=True)
    return module


def _ready(module: Any, device: str, checkpointing: bool) -> nn.Module:
    """On its device, without randomness, with the attention function that computes what the model was trained with."""
    for part in module.modules():
        _without_noise(part)
    if checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    target, inner = pick_device(device), plain(module)
    if attention.capped(inner):
        inner.set_attn_implementation("eager")  # every other kernel of transformers leaves the cap out
    elif attention.fits(inner):
        inner.set_attn_implementation(attention.register())
    ready: nn.Module = module.to(target).eval()
    if target.type == "cpu":  # out of the mapped file: what is written to it later must not reach a run
        for weight in ready.parameters():
            weight.data = weight.data.clone()
    return ready


def _without_noise(part: nn.Module) -> None:
    """No dropout, also where a layer passes its rate to a function, and no jitter in a router."""
    if isinstance(part, nn.Dropout):
        part.p = 0.0
    for name, value in vars(part).items():
        if isinstance(value, float) and ("dropout" in name or "jitter" in name):
            setattr(part, name, 0.0)


def add_lora(module: nn.Module, lora: Lora) -> nn.Module:
    """Wrap with PEFT adapters (float32) whose first output is zero; UserError when PEFT is not installed."""
    peft = _peft()
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        **lora.options,
    )
    try:
        with _quiet():
            wrapped: nn.Module = peft.get_peft_model(module, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {first_line(error)}")
    return wrapped


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("LoRA needs PEFT: pip install 'temper-rl[peft]'")
    return peft


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" takes one GPU when there is one. UserError for a device that this machine does not have."""
    found = torch.cuda.is_available()
    if device.partition(":")[0] == "cuda" and not found:
        raise UserError(f"no device {device!r}: torch finds no GPU here; leave it to auto, or say cpu")
    try:
        return torch.device(("cuda" if found else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; there are: auto, cpu, cuda, cuda:1 and so on")


def save_model(module: Any, tokenizer: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """A Hugging Face directory (or PEFT's layout for adapters), with tokenizer, chat template and generation config.

    The generation config names every token at which Temper's sampler stops, so that `generate` stops there too.
    weights  the module's state, where it is not in the module as a whole
    """
    folder.mkdir(parents=True, exist_ok=True)
    generation = getattr(plain(module), "generation_config", None)
    if generation is not None and tokenizer is not None:
        generation.eos_token_id = list(end_ids(module, tokenizer))
    with _quiet():
        module.save_pretrained(folder, state_dict=weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def merge_adapter(model: str, folder: Path) -> None:
    """Write the adapter directory `model` as a full model, its weights added to the base's."""
    if not is_adapter(model):
        raise UserError(f"{model!r} is not an adapter: there is nothing to merge")
    module: Any = load_model(model, device="cpu")
    save_model(module.merge_and_unload(), load_tokenizer(model), folder)


def plain(module: Any) -> Any:
    """The transformers model inside a PEFT wrapper (adapters stay in place), or the model itself."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def trunk(module: Any) -> Any:
    """The model without its head, which gives hidden states; None where it cannot be told apart."""
    model = plain(module)
    candidates = (getattr(model, "base_model", None), getattr(model, "model", None))
    return next((c for c in candidates if isinstance(c, nn.Module) and c is not model), None)


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
    """Token ids that end an answer, by the generation config, the tokenizer and the chat template."""
    generation = getattr(plain(module), "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys([*ids, *turn_ends(tokenizer)]))


def turn_ends(tokenizer: Any) -> tuple[int, ...]:
    """The end-of-sequence token, and the control token that the chat template puts behind an answer, if it does."""
    word = "answer"
    said = [{"role": "user", "content": "question"}, {"role": "assistant", "content": word}]
    try:
        text = str(tokenizer.apply_chat_template(said, tokenize=False))
    except Exception:  # a template that refuses plain conversations says so where they are played
        return (tokenizer.eos_token_id,)
    after = tokenizer.encode(text.rpartition(word)[2], add_special_tokens=False)[:1]
    closing = [i for i in after if i in tokenizer.all_special_ids or i in tokenizer.added_tokens_decoder]
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *closing]))


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no notes on what transformers and PEFT adjust by themselves."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
