"""Large vocabularies, and what tokenizers and heads disagree about: memory, padding rows, pad tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, LOGP, TOKEN
from temper.episode import Recorder
from temper.models import layout
from temper.objective import Term
from temper.tasks.task import Task
from tests.models import builders
from tests.models.test_architectures import Build, alternating, build, chat, episodes, opened, sample  # noqa: F401
from tests.seams import toys

VOCABULARY = 50_000
ROWS = 4  # rows of logits held at once when CHUNK is lowered


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An embedding of 50 000 rows, of which the tokenizer names 428."""
    import transformers

    folder = tmp_path_factory.mktemp("large")
    tokenizer = builders.qwen3_tokenizer()
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class WithEntropy:
    """A loss that reads both live columns."""

    reads = (ADVANTAGE, LOGP, ENTROPY)

    def __call__(self, b: Batch) -> Tensor:
        return -b[ADVANTAGE] * b[LOGP] - 0.1 * b[ENTROPY]


def gradient(policy: Any, batch: Batch) -> tuple[Tensor, int]:
    """(gradient of the embedding, most rows of logits that the forward pass kept for the backward pass)."""
    kept, weights = 0, {p.data_ptr() for p in policy.learner.module.parameters()}

    def note(x: Tensor) -> Tensor:
        nonlocal kept
        if x.shape[-1:] == (VOCABULARY,) and x.dim() > 1 and x.data_ptr() not in weights:
            kept = max(kept, x.shape[0])
        return x

    policy.learner.optimizer.step = lambda: None
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        policy.learner.update(batch, [Term("all", WithEntropy())])
    weight = policy.learner.module.get_input_embeddings().weight
    return weight.grad.clone(), kept


def test_logits_exist_chunk_by_chunk(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = opened(large)
    batch = Batch.of(episodes(policy))
    batch = batch.put(ADVANTAGE, alternating(batch))
    assert batch.size(TOKEN) > 8 * ROWS
    whole, kept = gradient(policy, batch)
    assert kept == batch.size(TOKEN)  # a few tokens fit at once

    widest: list[int] = []
    tempered = layout._tempered

    def watched(logits: Tensor, *rest: Any) -> Tensor:
        widest.append(len(logits))
        return tempered(logits, *rest)

    monkeypatch.setattr(layout, "CHUNK", ROWS * VOCABULARY)
    monkeypatch.setattr(layout, "_tempered", watched)
    chunked, kept = gradient(policy, batch)
    assert kept <= ROWS and max(widest) == ROWS
    assert len(widest) >= 2 * (batch.size(TOKEN) // ROWS)  # each computed again in the backward pass
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-4)
    read = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(read, batch[LOGP.of("behaviour")], atol=3e-5, rtol=0)


def test_no_logits_of_prompts(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head sees the positions that predict sampled tokens, not the whole rectangle."""
    policy = opened(large)
    batch = Batch.of(episodes(policy))
    seen: list[int] = []
    handle = policy.learner.module.lm_head.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].shape[:-1].numel())
    )
    policy.learner.read(batch, {LOGP: LOGP})
    handle.remove()
    assert max(seen) <= batch.size(TOKEN) < len(batch.structure.ids)


def test_rows_beyond_the_tokenizer_are_ordinary_ids(large: str) -> None:
    """Embeddings are padded to a round size; an untrained model samples such ids, and nothing breaks."""
    policy = opened(large)
    ids = chat(policy, "Hi")
    allowed = tuple(range(len(policy.tokenizer), VOCABULARY, 9973))
    answer = sample(policy, [(ids, SamplingParams(5, allowed=allowed, seed=1))])[0]
    assert set(answer.ids) <= set(allowed) and answer.text == ""
    record = Recorder(Task("t", "x"))
    prompt = record.add(ids)
    record.judge([prompt, record.sampled(answer, prompt)])
    batch = Batch.of([record.episode()])
    read = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(read, batch[LOGP.of("behaviour")], atol=3e-5, rtol=0)


def test_pad_tokens_inside_a_text_are_tokens(build: Build) -> None:  # noqa: F811
    """Where pad = eos, a mask found by looking for pad ids would drop the ends of turns. Here nothing looks."""
    policy = opened(build("llama3"))
    tokenizer = policy.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    ids = chat(policy, "What<|eot_id|> is<|eot_id|><|eot_id|> 6?")
    assert ids.count(tokenizer.pad_token_id) == 4
    answers = sample(policy, [(ids, SamplingParams(6, seed=s)) for s in range(2)] + [(ids[:5], SamplingParams(6))])
    plays = []
    for n, answer in enumerate(answers):
        record = Recorder(Task("t", "x"))
        prompt = record.add(ids if n < 2 else ids[:5])
        record.judge([prompt, record.sampled(answer, prompt)])
        plays.append(record.episode())
    batch = Batch.of(plays)
    read = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(read, batch[LOGP.of("behaviour")], atol=3e-5, rtol=0)
    policy.tokenizer.pad_token = "<|begin_of_text|>"  # whatever it is, it changes nothing
    again = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    assert torch.equal(again, read)


def test_a_learned_end_token_is_a_row_with_a_gradient(build: Build) -> None:  # noqa: F811
    policy = opened(build("llama3"))
    end = policy.tokenizer.eos_token_id
    record = Recorder(Task("t", "x"))
    prompt = record.add(chat(policy, "Hi"))
    record.judge([prompt, record.add((end,), prompt, author="solver")])
    batch = Batch.of([record.episode()])
    before = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    policy.learner.update(batch.put(ADVANTAGE, torch.ones(1)), [toys.POLICY_TERM])
    assert float(policy.learner.read(batch, {LOGP: LOGP})[LOGP] - before) > 1e-3


def test_a_head_with_a_bias_is_scored_with_it(build: Build, tmp_path: Path) -> None:  # noqa: F811
    policy = opened(build("phi"))
    bias = policy.learner.module.lm_head.bias
    with torch.no_grad():
        bias.copy_(torch.linspace(-3, 3, len(bias)))
    batch = Batch.of(episodes(policy))
    read = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(read, batch[LOGP.of("behaviour")], atol=3e-5, rtol=0)
    with torch.no_grad():
        bias.zero_()
    assert float((policy.learner.read(batch, {LOGP: LOGP})[LOGP] - read).abs().max()) > 0.1
