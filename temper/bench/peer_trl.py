"""TRL's side of a workload: GRPOTrainer with its defaults, on the CPU in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from temper.bench.workloads import Workload
from temper.errors import UserError

STEPS = 1_000_000


def letters(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The same reward as Temper's side has."""
    return [sum(97 <= t < 123 for t in ids) / max(1, len(ids)) for ids in completion_ids]


def loop(workload: Workload, model: str, **settings: Any) -> Callable[[Callable[[], None]], None]:
    """The training loop. settings: of GRPOConfig."""
    try:
        import trl
    except ImportError:
        raise UserError("the peer is not installed: pip install 'trl>=1.16,<1.17', or --peer none")

    def go(tick: Callable[[], None]) -> None:
        import torch
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

        class Ticking(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                tick()

        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.padding_side = "left"
        more: dict[str, Any] = {}
        if workload.turns > 1:
            more = {"tools": [_look(workload.observed)]}
            tokenizer.response_template, tokenizer.parse_response = {}, _always_calls(tokenizer)
            settings.setdefault("max_tool_calling_iterations", workload.turns - 1)
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in workload.prompts()]
        with tempfile.TemporaryDirectory() as folder:
            config = trl.GRPOConfig(
                output_dir=folder, num_generations=workload.attempts,
                max_completion_length=workload.answer * (1 if workload.turns == 1 else 2), max_steps=STEPS,
                learning_rate=1e-6, beta=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False,
                report_to=[], save_strategy="no", logging_steps=STEPS, disable_tqdm=True,
                **{"per_device_train_batch_size": workload.samples, **settings},
            )  # fmt: skip
            trainer = trl.GRPOTrainer(
                model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
                reward_funcs=letters,
                args=config,
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                callbacks=[Ticking()],
                **more,
            )
            trainer.train()

    return go


def _look(characters: int) -> Callable[[], str]:
    def look() -> str:
        """Look again.

        Returns:
            What there is to see.
        """
        return "x" * characters

    return look


def _always_calls(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """Any text is a call of `look`: a random model cannot spell one, and both sides are to take the same turns."""
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}

    def parse(ids: Any, **_: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": tokenizer.decode(ids), "tool_calls": [call]}

    return parse
