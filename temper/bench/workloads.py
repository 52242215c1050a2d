"""The workloads, and models made for them: random weights whose answers are as long as the workload says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

WORDS = ("alpha", "zebra", "gamma", "delta", "omega", "sigma", "kappa", "theta")
SIZES = {  # name -> (hidden size, layers, heads, key-value heads, intermediate size)
    "1m": (128, 4, 4, 2, 384),
    "5m": (256, 6, 8, 4, 768),
}


@dataclass(frozen=True)
class Workload:
    """One step: `groups` tasks × `attempts`.

    prompt   characters (about as many tokens) of a task; answer: most tokens of a turn
    mean     mean tokens of a turn, which ends at random (0: it never ends before `answer`)
    turns    of the policy, with an observation of `observed` characters between two
    target   how many times cheaper a trained sample has to be than the peer's
    """

    name: str
    text: str
    prompt: int
    answer: int
    mean: int = 0
    turns: int = 1
    observed: int = 0
    groups: int = 8
    attempts: int = 8
    vocabulary: int = 512
    target: float = 1.0

    @property
    def samples(self) -> int:
        return self.groups * self.attempts

    def prompts(self) -> list[str]:
        """One for each of 64 tasks, of about `prompt` characters, all different."""
        return [(WORDS[i % 8] + " ") * max(1, self.prompt // 6) + str(i) for i in range(64)]


WORKLOADS = {
    "A": Workload("A", "short prompts, uniform short answers", 8, 32, target=1.5),
    "B": Workload("B", "heavy-tailed answer lengths", 8, 128, mean=26, target=4.0),
    "C": Workload("C", "prompts much longer than answers", 256, 32, target=4.0),
    "D": Workload("D", "four turns with observations", 8, 256, mean=16, turns=4, observed=24, target=3.0),
    "E": Workload("E", "a vocabulary of 150,000", 8, 64, groups=4, vocabulary=150_000, target=1 / 0.35),
}


def small(workload: Workload) -> Workload:
    """The same in a second, for tests."""
    fewer = min(workload.vocabulary, 4096)
    return replace(
        workload, groups=2, attempts=2, answer=min(workload.answer, 8), mean=min(workload.mean, 4), vocabulary=fewer
    )


def make_model(folder: Path, workload: Workload, size: str = "1m") -> str:
    """A Qwen3 with random weights, saved in Hugging Face form, whose turns end at any token with chance 1/mean.

    One component is the same in every hidden state; the end token's logit reads that alone, the others' do not.
    """
    import torch
    from transformers import Qwen3ForCausalLM

    from temper.models.tiny import tiny_config, tiny_tokenizer

    hidden, layers, heads, kv_heads, inner = SIZES[size]
    config = tiny_config(hidden, layers, heads, kv_heads, inner)
    config.vocab_size, config.tie_word_embeddings = workload.vocabulary, False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        table.normal_()
        table[:, 0] = 5.0
        head.normal_(std=0.02)
        head[:, 0] = 0.0
        shared = 5.0 / math.sqrt((25.0 + hidden - 1) / hidden)  # that component after the last norm
        rate = 1 / workload.mean if workload.mean else 1e-9
        head[config.eos_token_id] = 0.0
        head[config.eos_token_id, 0] = math.log(rate / (1 - rate) * (workload.vocabulary - 1)) / shared
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
