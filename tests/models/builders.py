"""Small random models of real families, in Hugging Face format: their tokenizer kind, chat template and architecture.

Weights are drawn with a wide standard deviation, so that distributions are far from uniform and a wrong mask, position
or cache shows in every log-prob. The text that tokenizers are trained on is written here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "What is the sum of seven and twelve? The sum of seven and twelve is nineteen.",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.",
    "A farmer has 16 hens. Every day each hen lays one egg; three are eaten, the rest are sold for $2 each.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))  # 3",
    "Think step by step, then give the answer in \\boxed{42}. Let us check: 6 * 7 = 42.",
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9 10 11 12 100 1000",
    "Er sagte: »Schöne Grüße aus Köln!« — 你好，世界。 naïve café",
    "user assistant system model answer question reasoning tool result true false yes no",
] * 4

QWEN3 = r"""
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}
{%- set ns = namespace(last_query=0) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last_query = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}""".strip()

LLAMA3 = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}""".strip()

GEMMA = r"""
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}""".strip()

MIXTRAL = r"""
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}{{- message.content + eos_token }}
    {%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}
{%- endfor %}""".strip()

LLAMA2 = r"""
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content.strip() + ' ' + eos_token }}
    {%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}
{%- endfor %}""".strip()

OWN_LINE = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content | trim + '\n\n  <|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""".strip()

PLAIN = r"""
{%- for message in messages %}{{- message.role + ': ' + message.content + eos_token + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}""".strip()


def byte_bpe(specials: list[str], markup: tuple[str, ...] = ()) -> Tokenizer:
    """As Qwen, Llama 3, GPT-2 and Phi have it; control tokens after the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in specials])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in markup])
    return tokenizer


def sentence_bpe(specials: list[str]) -> Tokenizer:
    """As Gemma has it: spaces become "▁", unknown characters fall back to bytes, control tokens come first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    first = [*specials, "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=480, special_tokens=first))
    return _byte_tokens_are_text(tokenizer, specials)


def _byte_tokens_are_text(tokenizer: Tokenizer, specials: list[str]) -> Tokenizer:
    import json

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in (*specials, "<unk>")]
    return Tokenizer.from_str(json.dumps(state))


def unigram(specials: list[str]) -> Tokenizer:
    """As SentencePiece models have it: words and characters with log-probs, "▁" for spaces, one before the text."""
    words = Counter("▁" + word for line in CORPUS for word in line.split())
    characters = Counter(character for word in words for character in word)
    pieces = [("<unk>", 0.0), *((s, 0.0) for s in specials)]
    pieces += [(c, math.log(n) - 12.0) for c, n in sorted(characters.items())]
    pieces += [(w, math.log(n) - 10.0) for w, n in sorted(words.items()) if w not in characters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in specials])
    return tokenizer


def _wrap(tokenizer: Tokenizer, template: str, **tokens: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, clean_up_tokenization_spaces=False, **tokens
    )


def qwen3_tokenizer() -> Any:
    raw = byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ("<think>", "</think>"))
    return _wrap(raw, QWEN3, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3_tokenizer() -> Any:
    control = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return _wrap(byte_bpe(control), LLAMA3, bos_token=control[0], eos_token="<|eot_id|>", pad_token="<|eot_id|>")


def gemma_tokenizer() -> Any:
    control = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    raw = sentence_bpe(control)
    return _wrap(raw, GEMMA, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def mixtral_tokenizer() -> Any:
    raw = unigram(["<s>", "</s>", "[INST]", "[/INST]"])
    return _wrap(raw, MIXTRAL, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")


def llama2_tokenizer() -> Any:
    """Its template puts a space before the end of an answer."""
    raw = sentence_bpe(["<s>", "</s>"])
    return _wrap(raw, LLAMA2, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")


def own_line_tokenizer() -> Any:
    """Its template puts the end of an answer on a line of its own."""
    raw = byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return _wrap(raw, OWN_LINE, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def gpt2_tokenizer() -> Any:
    end = "<|endoftext|>"
    return _wrap(byte_bpe([end]), PLAIN, bos_token=end, eos_token=end, pad_token=end)


@dataclass(frozen=True)
class Family:
    """A kind of model.

    config   (vocabulary) -> its transformers config
    ends     tokens that its generation config names as the end of an answer
    padding  rows of the embedding beyond the tokenizer's
    """

    name: str
    tokenizer: Callable[[], Any]
    config: Callable[[int], Any]
    ends: tuple[str, ...]
    padding: int = 0


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def _config(kind: str, **fixed: Any) -> Callable[[int], Any]:
    def make(vocabulary: int) -> Any:
        import transformers

        return getattr(transformers, f"{kind}Config")(**{**SIZES, "vocab_size": vocabulary, **fixed})

    return make


def _gpt2(vocabulary: int) -> Any:
    import transformers

    return transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip


WINDOW = 8
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "output_router_logits": False}
FAMILIES = {
    f.name: f
    for f in (
        Family(
            "qwen3", qwen3_tokenizer, _config("Qwen3", head_dim=8, tie_word_embeddings=True),
            ("<|im_end|>", "<|endoftext|>"), padding=64,
        ),
        Family("llama3", llama3_tokenizer, _config("Llama", tie_word_embeddings=False), ("<|eot_id|>",)),
        Family(
            "gemma2", gemma_tokenizer,
            _config(
                "Gemma2", head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, attn_logit_softcapping=5.0,
                final_logit_softcapping=10.0, attention_dropout=0.1,
            ),
            ("<eos>", "<end_of_turn>"),
        ),
        Family(
            "gemma3", gemma_tokenizer,
            _config(
                "Gemma3Text", head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW,
                layer_types=["sliding_attention", "full_attention"],
            ),
            ("<eos>", "<end_of_turn>"),
        ),
        Family("mistral", mixtral_tokenizer, _config("Mistral", head_dim=8, sliding_window=WINDOW), ("</s>",)),
        Family(
            "mixtral", mixtral_tokenizer,
            _config("Mixtral", num_local_experts=4, router_jitter_noise=0.1, sliding_window=None, **EXPERTS), ("</s>",),
        ),
        Family(
            "qwen3_moe", qwen3_tokenizer,
            _config("Qwen3Moe", head_dim=8, num_experts=4, moe_intermediate_size=32, decoder_sparse_step=1, **EXPERTS),
            ("<|im_end|>",),
        ),
        Family(
            "qwen3_next", qwen3_tokenizer,
            _config(
                "Qwen3Next", head_dim=8, num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=32,
                linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
                layer_types=["linear_attention", "full_attention"], **EXPERTS,
            ),
            ("<|im_end|>",),
        ),
        Family("phi", gpt2_tokenizer, _config("Phi", num_key_value_heads=4), ("<|endoftext|>",)),
        Family("gpt2", gpt2_tokenizer, _gpt2, ("<|endoftext|>",)),
    )
}  # fmt: skip


def save(name: str, folder: Path, seed: int = 0) -> str:
    """Write a random model of the family with all that belongs to it; returns the folder."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer) + family.padding)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    ends = [tokenizer.convert_tokens_to_ids(t) for t in family.ends]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
