"""RL, a jump along the way that the weights took, and RL again: on your own tasks or on the bundled suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from temper import streams
from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.methods.objectives.next_extrapolation import Jump
from temper.methods.objectives.next_extrapolation import next_extrapolation as method
from temper.parts.trajectories import Merged
from temper.recipe import extends
from temper.recipes.common import post_train
from temper.recipes.imitation import left_by
from temper.run import Run

FIRST = "trajectory"


@extends(post_train, without=("method", "name"))
def next_extrapolation(
    out: Path = Path("runs/next-extrapolation"),
    trajectory: int = 40,
    every: int = 4,
    horizon: int = 12,
    coefficients: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
    validation: int = 32,
    epochs: int = 300,
    predictor_lr: float = 1e-3,
    clip: float = 0.2,
    model: str = "temper-tiny",
    steps: int = 20,
    eval_tasks: int = 64,
    lora: int = 0,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> list[Run]:
    """GRPO, then weights extrapolated along their way and GRPO again (NExt, Chen et al. 2026).

    out           directory of the run: the second phase starts from what the first leaves there
    trajectory    steps of the first phase (0: none, and no jump)
    every         optimiser steps between the weights that are kept
    horizon       optimiser steps that the jump is as long as, at coefficient 1
    coefficients  lengths of the jump that are tried
    validation    tasks that choose among them, neither trained nor tested on
    epochs        steps of the predictor's training; predictor_lr: their rate (the paper: 2e-5)
    clip          range of the probability ratio
    steps         steps of the second phase
    lora          rank of the first phase's adapters (0: it trains all weights, as the second always does)
    minibatches   optimiser steps on each batch
    """
    shared = {**options, "seed": seed, "eval_tasks": eval_tasks + validation if trajectory else eval_tasks}
    if not trajectory:
        return [_phase("next-extrapolation", model, None, every, clip, minibatches, steps=steps, lora=lora, **shared)]
    if every < 1 or trajectory * minibatches % every or horizon % every:
        raise UserError(
            f"the first phase ({trajectory * minibatches} optimiser steps) and the horizon ({horizon}) must be "
            f"multiples of every ({every})"
        )
    kept = out / f"1-{FIRST}" / "weights"
    first = _phase(FIRST, model, kept, every, clip, minibatches, steps=trajectory, lora=lora, **shared)
    second = _phase("next-extrapolation", left_by(out, FIRST), None, every, clip, minibatches, steps=steps, **shared)
    tested, chosen = _parted(first, validation)
    policy = Merged.of(next(iter(second.roles.values())))
    second.roles = dict.fromkeys(second.roles, policy)
    second.updates = [replace(u, policy=policy) for u in second.updates]
    jump = Jump(policy, kept, chosen, horizon // every, coefficients, epochs, predictor_lr, seed)
    first.probes, second.probes = [tested], [jump, replace(tested)]
    return [first, second]


def _phase(
    name: str, model: str, folder: Path | None, every: int, clip: float, minibatches: int, **options: Any
) -> Run:
    return post_train(
        lambda policy: method(policy, folder=folder, every=every, clip=clip, minibatches=minibatches),
        name=name, model=model, **options,
    )  # fmt: skip


def _parted(run: Run, validation: int) -> tuple[Evaluation, Evaluation]:
    """The run's held-out tasks in two: for the test, and for the choice."""
    held = next((p for p in run.probes if isinstance(p, Evaluation)), None)
    n = 0 if held is None else min(validation, len(held.tasks) - 1)
    if held is None or n < 1:
        raise UserError("the length of the jump is chosen on held-out tasks of its own: raise --validation")
    order = streams.generator(0, "validation").permutation(len(held.tasks)).tolist()
    tasks = [[held.tasks[i] for i in sorted(some)] for some in (order[n:], order[:n])]
    return replace(held, tasks=tasks[0]), replace(held, tasks=tasks[1], name="validation", every=0)
