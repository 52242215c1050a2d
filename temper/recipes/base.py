"""Pre-train the bundled model, temper-tiny, from random weights on synthetic demonstrations.

The same loop as every other run: a demonstrations environment, a curriculum that makes demonstrations as they are
asked for, and one NLL term. Errors and formats in the demonstrations are deliberate (see temper.tasks.skills).
"""

from __future__ import annotations

from typing import Any

from temper.backends.base import AdamW
from temper.envs.demonstrations import Demonstrations
from temper.objective import Term, Update
from temper.parts.curricula import Generated
from temper.parts.schedules import Cosine, WarmUp
from temper.parts.sft import NLL
from temper.policy import Policy
from temper.run import Run
from temper.tasks import skills
from temper.tasks.suites import BASE_SKILLS
from temper.tasks.task import Task


def base(
    model: str = "temper-tiny-random",
    steps: int = 10000,
    groups: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 0.1,
    warmup: int = 200,
    longest: int = 384,
    token_budget: int = 8192,
    dtype: str = "float32",
    save_every: int = 500,
    seed: int = 0,
) -> Run:
    """Supervised pre-training on the mixture of skills.

    model         where to start: random weights, or a directory to continue from
    groups        demonstrations in a step
    lr            peak learning rate: warm-up, then cosine to a tenth
    weight_decay  of AdamW; warmup: steps to reach the peak
    longest       demonstrations of more tokens are dropped
    token_budget  padded tokens in a micro-batch
    dtype         of the arithmetic; the weights stay float32
    save_every    steps between checkpoints (0: only at the end)
    """
    policy = Policy(
        model=model,
        optimizer=AdamW(lr=WarmUp(Cosine(lr, lr / 10, steps), warmup), weight_decay=weight_decay),
        token_budget=token_budget,
        dtype=dtype,
    )
    return Run(
        name="base",
        env=Demonstrations(demonstration, longest=longest),
        curriculum=Generated(Mixture(seed)),
        roles={"solver": policy},
        updates=[Update(policy, [Term("nll", NLL())])],
        steps=steps,
        groups=groups,
        seed=seed,
        save_every=save_every,
        transcripts_every=max(1, steps // 10),
        threads=1,
    )


class Mixture:
    """The k-th demonstration of the pre-training mixture, as a task that names it."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, k: int) -> Task:
        return Task(f"demo/{self.seed}/{k}", "", source="demonstrations", info={"seed": self.seed, "index": k})


def demonstration(task: Task, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """Its turns, by the chat template's own rendering."""
    found = next(skills.demos(BASE_SKILLS, task.info["seed"], task.info["index"]))
    return skills.demo_turns(found, tokenizer)
