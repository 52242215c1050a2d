"""The lean decoding step gives what transformers gives, or is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import Lora, SamplingParams
from temper.backends.local_sampler import LocalSampler
from temper.models import layout
from temper.models.decoder import Decoder
from temper.models.load import add_lora
from temper.models.tiny import tiny_model, tiny_tokenizer
from tests.core.test_sampler import many
from tests.models import builders

LEAN = ["qwen3", "llama3"]
OTHERS = ["gemma2", "gemma3", "gpt2", "mixtral", "phi"]
ASKED = [((65, 66, 67, 68, 69, 70), 11), ((70, 71), 14), ((72, 73, 74), 3), ((65, 66, 67, 68, 69, 70), 9)]
ASK = [(ids, SamplingParams(max_tokens=n, seed=k)) for k, (ids, n) in enumerate(ASKED)]


def model_of(name: str, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(builders.save(name, folder), dtype=torch.float32).eval()


def said(model: Any, lean: bool) -> list[Any]:
    sampler = LocalSampler(model, tiny_tokenizer())
    sampler.end = frozenset()
    if not lean:
        sampler.decoder = None
    return many(sampler, *ASK)


@pytest.mark.parametrize("name", LEAN)
def test_rows_of_different_lengths_get_the_same_tokens_and_logprobs(name: str, tmp_path: Path) -> None:
    model = model_of(name, tmp_path)
    assert Decoder.of(model, layout.head_of(model)) is not None
    for mine, theirs in zip(said(model, True), said(model, False)):
        assert mine.ids == theirs.ids
        torch.testing.assert_close(torch.tensor(mine.logp), torch.tensor(theirs.logp), atol=2e-5, rtol=0)


def test_it_reads_the_weights_of_the_moment() -> None:
    model = tiny_model()
    sampler = LocalSampler(model, tiny_tokenizer())
    sampler.end = frozenset()
    before = many(sampler, *ASK)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.3
        model.model.layers[1].self_attn.k_norm.weight *= 1.5
    after = many(sampler, *ASK)
    assert [c.ids for c in after] == [c.ids for c in said(model, False)] != [c.ids for c in before]


def test_adapters_take_part() -> None:
    adapted = add_lora(tiny_model(), Lora(4, 8))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p += 0.02
    assert Decoder.of(adapted, layout.head_of(adapted)) is not None
    assert [c.ids for c in said(adapted, True)] == [c.ids for c in said(adapted, False)]


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_keep_their_own_forward(name: str, tmp_path: Path) -> None:
    model = model_of(name, tmp_path)
    assert Decoder.of(model, layout.head_of(model)) is None


def test_a_layer_that_only_looks_usual_is_found_out() -> None:
    model = tiny_model()
    forward = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = lambda x: 0.9 * forward(x)
    assert Decoder.of(model, layout.head_of(model)) is None
