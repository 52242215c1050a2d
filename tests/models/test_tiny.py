"""temper-tiny: a lossless tokenizer, a template that only appends, a model of the promised size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.models.load import BUNDLED
from temper.models.phrases import PHRASES
from temper.models.tiny import END_OF_TURN, MARKUP, VOCAB_SIZE, save_tiny, tiny_config, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TOOL = {"type": "function", "function": {"name": "calculator", "description": "d", "parameters": {}}}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 3?"},
    {
        "role": "assistant",
        "content": "<think>a sum</think>",
        "tool_calls": [{"function": {"name": "calculator", "arguments": {"expression": "2+3"}}}],
    },
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "<think>done</think>5"},
]


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["naïve 你好 🎉\x00", "State the final answer", "<think>1</think>", " \n\t ", "Fayland"]
)
def test_chosen_texts_survive_a_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_letters_and_digits_are_single_tokens() -> None:
    assert TOKENIZER.tokenize("canroyer1234") == list("canroyer1234")


def test_phrases_and_markup_are_whole_tokens() -> None:
    assert len(set(PHRASES)) == len(PHRASES)
    for text in (*PHRASES, *MARKUP):
        assert len(TOKENIZER.encode(text)) == 1, text


def test_padding_is_not_the_end_of_a_turn() -> None:
    assert TOKENIZER.eos_token == END_OF_TURN
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert len(TOKENIZER) <= VOCAB_SIZE


def test_a_conversation_is_a_prefix_of_its_continuation() -> None:
    """What was rendered is never rewritten: thinking stays, and the next prompt begins with the last one."""
    whole = TOKENIZER.apply_chat_template(CHAT, tools=[TOOL], tokenize=False)
    for i in range(2, len(CHAT)):
        part = TOKENIZER.apply_chat_template(CHAT[:i], tools=[TOOL], tokenize=False)
        assert whole.startswith(part)
        if CHAT[i]["role"] == "assistant":
            prompt = TOKENIZER.apply_chat_template(CHAT[:i], tools=[TOOL], tokenize=False, add_generation_prompt=True)
            assert whole.startswith(prompt)


def test_the_rendering_by_hand() -> None:
    assert TOKENIZER.apply_chat_template(CHAT[1:], tokenize=False) == (
        "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n"
        '<|im_start|>assistant\n<think>a sum</think>\n<tool_call>\n{"name": "calculator", "arguments": '
        '{"expression": "2+3"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n5\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>done</think>5<|im_end|>\n"
    )


def test_tools_are_rendered_as_json_behind_the_system_message() -> None:
    text = TOKENIZER.apply_chat_template(CHAT[:2], tools=[TOOL], tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n<tools>\n")
    assert '{"type": "function", "function": {"name": "calculator"' in text


@pytest.mark.parametrize("bad", [[{"role": "user", "content": "x"}, CHAT[0]], [{"role": "judge", "content": "x"}]])
def test_a_message_out_of_place_is_refused(bad: list[dict[str, Any]]) -> None:
    with pytest.raises(Exception, match=r"system message|unknown role"):
        TOKENIZER.apply_chat_template(bad, tokenize=False)


def test_saved_files_load_and_are_small(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_tiny(tiny_model(seed=1), tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8 * 2**20
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert 0.8e6 <= model.num_parameters() <= 2e6
    assert model.config.max_position_embeddings >= 1024
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == TOKENIZER.eos_token_id
    for text in ("What is 2 + 3?", "é"):
        assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == TOKENIZER.apply_chat_template(CHAT, tokenize=False)


def test_random_weights_are_a_function_of_the_seed() -> None:
    import torch

    a, b, c = tiny_model(0), tiny_model(0), tiny_model(1)
    assert torch.equal(a.lm_head.weight, b.lm_head.weight)
    assert not torch.equal(a.lm_head.weight, c.lm_head.weight)


def test_the_bundled_model_is_this_tokenizer_and_architecture() -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = BUNDLED["temper-tiny"]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == TOKENIZER.get_vocab()
    assert AutoTokenizer.from_pretrained(folder).chat_template == TOKENIZER.chat_template
    found, made = AutoConfig.from_pretrained(folder).to_dict(), tiny_config().to_dict()
    for field in ("hidden_size", "num_hidden_layers", "vocab_size", "eos_token_id", "pad_token_id", "rope_parameters"):
        assert found[field] == made[field], field


def test_the_bundled_model_is_right_greedily_and_only_half_of_the_time_when_sampled() -> None:
    """Headroom by design: what it does most often is right, and reinforcement learning has the rest to gain."""
    import torch
    from transformers import AutoModelForCausalLM

    from temper.tasks.skills import held_out, reward

    tasks = held_out("products", 24, seed=3)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED["temper-tiny"])
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    prompts = [tokenizer.apply_chat_template(t.messages, tokenize=False, add_generation_prompt=True) for t in tasks]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    torch.manual_seed(0)
    rates = {}
    for name, repeats, sample in (("greedy", 1, False), ("sampled", 8, True)):
        ids = model.generate(
            **inputs, do_sample=sample, top_k=0, max_new_tokens=48, num_return_sequences=repeats, pad_token_id=256
        )
        texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :])
        rewards = [reward(text.split(END_OF_TURN)[0], **tasks[i // repeats].info) for i, text in enumerate(texts)]
        rates[name] = sum(rewards) / len(rewards)
    assert rates["greedy"] >= 0.75
    assert 0.25 <= rates["sampled"] <= 0.65
