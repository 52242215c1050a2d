"""What recipes share that begin with demonstrations of their own environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from temper.backends.base import AdamW, Lora
from temper.envs.conversations import Conversations, demonstrated
from temper.envs.shown import Says, Shown
from temper.envs.single import SingleTurn
from temper.method import Method
from temper.methods.objectives.sft import sft
from temper.objective import Update
from temper.parts.curricula import Generated, Shuffled
from temper.parts.schedules import Linear, WarmUp
from temper.policy import Policy
from temper.request import Env
from temper.run import Run
from temper.tasks.task import Task

COLD_START = "cold-start"


def cold_start(
    env: Env, says: Says, tasks: Sequence[Task], *, model: str, steps: int, lr: float, seed: int,
    method: Callable[[Policy], Method] = sft, **options: Any,
) -> Run:  # fmt: skip
    """Imitation of `says` playing `env`, 32 demonstrations a step. options: those of `train_on` that fit.

    Every task comes under eight ids, so that what `says` draws by the id differs from time to time.
    """
    tasks = [replace(t, id=f"{t.id}#{n}") for n in range(8) for t in tasks]
    kept = {k: options[k] for k in ("dtype", "device", "checkpointing", "token_budget") if k in options}
    rank = options.get("lora", 0)
    optimizer = AdamW(lr=WarmUp(lr, max(1, steps // 10)))
    policy = Policy(model=model, optimizer=optimizer, lora=Lora(rank, 2 * rank) if rank else None, **kept)
    m = method(policy)
    return Run(
        name=COLD_START, env=Shown(env, says), curriculum=Shuffled(tasks, 1, seed), roles={"solver": policy},
        on_group=m.on_group, on_batch=m.on_batch, updates=[Update(policy, m.terms)], steps=steps, groups=32, seed=seed,
        threads=1, save_every=options.get("save_every", 0),
    )  # fmt: skip


def taught(
    says: Says, tasks: Sequence[Task], out: Path, *, model: str, steps: int, lr: float, seed: int, **options: Any
) -> tuple[list[Run], str]:
    """(a first phase that imitates one-turn answers, the model that it leaves); without steps, none and `model`."""
    if not steps or not tasks:
        return [], model
    made = cold_start(SingleTurn(), says, tasks, model=model, steps=steps, lr=lr, seed=seed, **options)
    return [made], left_by(out)


def of_dialogues(name: str, shown: Callable[[int], Task], *, model: str, steps: int, seed: int) -> Run:
    """Imitation of generated dialogues, 32 a step: `shown(k)` is the k-th."""
    policy = Policy(model=model, optimizer=AdamW(lr=WarmUp(Linear(2e-3, 0.0, steps), 10)))
    m = sft(policy)
    return Run(
        name=name, env=Conversations(demonstrated), curriculum=Generated(shown), roles={"solver": policy},
        on_group=m.on_group, on_batch=m.on_batch, updates=[Update(policy, m.terms)], steps=steps, groups=32, seed=seed,
        threads=1,
    )  # fmt: skip


def left_by(out: Path, name: str = COLD_START, n: int = 1) -> str:
    """The model that the n-th phase of a run in `out`, the first if not said, leaves."""
    return str(out / f"{n}-{name}" / "checkpoints" / "latest" / "model")
