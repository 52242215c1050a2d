"""What recipes share that learn from answers which a data set already has: nothing is sampled, nothing judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from temper.backends.base import AdamW, Lora
from temper.envs.conversations import Conversations, Dialogue
from temper.errors import UserError
from temper.method import Method
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.parts.probes import HeldOutLoss
from temper.parts.schedules import Linear, WarmUp
from temper.policy import Policy
from temper.run import Run
from temper.tasks.task import Task


def learn_offline(
    method: Callable[[Policy], Method],
    dialogues: Callable[[Task], Sequence[Dialogue]],
    *,
    name: str,
    data: str,
    model: str = "temper-tiny",
    eval_data: str | None = None,
    steps: int = 100,
    groups: int = 32,
    lr: float = 1e-5,
    warmup: int = 10,
    decay: bool = True,
    weight_decay: float = 0.0,
    longest: int = 0,
    lora: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    checkpointing: bool = False,
    token_budget: int = 16384,
    eval_tasks: int = 64,
    eval_every: int = 0,
    save_every: int = 50,
    seed: int = 0,
) -> Run:
    """Train on the answers of a data set.

    data           a file (JSONL, JSON, Parquet), or a Hugging Face data set
    model          a bundled name, a directory in Hugging Face format, or a hub id
    eval_data      held-out rows (default: the last part of data, which is then not trained on)
    groups         rows in a step
    lr             peak learning rate; warmup: steps to reach it; decay: fall linearly to 0 at the end
    weight_decay   AdamW's
    longest        rows of more tokens are dropped, and counted (0: the model's own limit)
    lora           rank of the adapters (0: full fine-tuning)
    dtype          float32, or bfloat16 to compute in it
    checkpointing  recompute activations in the backward pass, to save memory
    token_budget   padded tokens in a micro-batch
    eval_every     steps between evaluations (0: only before and after)
    save_every     steps between checkpoints (0: only at the end)
    """
    train, held_out = split(data, eval_data, eval_tasks)
    for task in (*train[:1], *held_out[:1]):
        dialogues(task)  # rows that are no demonstrations are refused before anything loads
    peak = Linear(lr, 0.0, steps) if decay else lr
    policy = Policy(
        model=model, optimizer=AdamW(lr=WarmUp(peak, warmup), weight_decay=weight_decay),
        lora=Lora(lora, 2 * lora) if lora else None, dtype=dtype, device=device, checkpointing=checkpointing,
        token_budget=token_budget,
    )  # fmt: skip
    m = method(policy)
    return Run(
        name=name,
        env=Conversations(dialogues, longest=longest),
        curriculum=Shuffled(train, 1, seed),
        roles={"solver": policy},
        on_group=m.on_group,
        on_batch=m.on_batch,
        updates=[Update(policy, m.terms, m.epochs, m.minibatches, before=m.before, after=m.after)],
        probes=[HeldOutLoss(held_out, eval_every)] if held_out else [],
        others=list(m.policies.values()),
        steps=steps,
        groups=groups,
        seed=seed,
        save_every=save_every,
    )


def split(data: str, eval_data: str | None, eval_tasks: int) -> tuple[Sequence[Task], Sequence[Task]]:
    """(rows to train on, held-out rows: at most `eval_tasks`, at most a fifth of data without eval_data)."""
    from temper.tasks.data import load_tasks

    if eval_tasks < 0:
        raise UserError(f"eval_tasks must not be negative, got {eval_tasks}")
    tasks = load_tasks(data)
    if eval_data is not None:
        return tasks, load_tasks(eval_data, limit=eval_tasks) if eval_tasks else []
    cut = len(tasks) - min(eval_tasks, len(tasks) // 5)
    return tasks[:cut], tasks[cut:]
