"""Answers that state how sure they are, rewarded for being right and for knowing it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from temper.methods.objectives.rlcr import rlcr as method
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train, tasks_for
from temper.recipes.imitation import taught
from temper.run import Run
from temper.tasks.skills import SKILLS, pick_style
from temper.tasks.task import Task

ASK = (
    "Think, give your answer in <answer> and </answer>, and close with how likely it is to be right, between 0 and 1, "
    "in <confidence> and </confidence>."
)


@extends(post_train, without=("method", "name"))
def rlcr(
    out: Path = Path("runs/rlcr"),
    brier: bool = True,
    lenient: bool = False,
    filter_overlong: bool = True,
    cold_start: int = 40,
    cold_start_lr: float = 1e-3,
    system: str | None = None,
    data: str = SUITE,
    model: str = "temper-tiny",
    steps: int = 60,
    lr: float = 2e-4,
    seed: int = 0,
    minibatches: int = 1,
    **options: Any,
) -> list[Run]:
    """Reward for right answers and for a confidence that is true (RLCR, Damani et al. 2025).

    out              directory of the run: RL starts from the model that the cold start leaves there
    brier            the part of the reward for the confidence
    lenient          without a readable confidence an answer keeps half of its reward for being right
    filter_overlong  truncated answers are not trained on
    cold_start       steps that teach the bundled model the format, with confidences drawn at random (0: none)
    cold_start_lr    its learning rate
    system           a system message that asks for the format (default: a sentence, where there is no cold start)
    lr               peak learning rate of RL
    minibatches      optimiser steps on each batch
    """
    tasks = tasks_for(data, None, 0, seed)[0][:1000] if cold_start and data == SUITE else []
    phases, model = taught(
        unsure, tasks, out, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options
    )  # fmt: skip
    rl = post_train(
        lambda policy: method(
            policy, brier=brier, lenient=lenient, filter_overlong=filter_overlong, minibatches=minibatches
        ),
        name="rlcr",
        system=ASK if system is None and not phases else system,
        data=data,
        model=model,
        steps=steps,
        lr=lr,
        seed=seed,
        **options,
    )
    return [*phases, rl]


def unsure(task: Task, context: str) -> str:
    """An answer as the bundled model gives it, right or wrong, with a confidence that says nothing."""
    draw = Random(task.id)
    text = str(SKILLS[task.source].demonstrate(task, draw, pick_style(draw))[0]["content"])
    thought, tag, answer = text.rpartition("</think>")
    return f"{thought}{tag}<answer>{answer}</answer><confidence>0.{draw.randrange(1, 10)}</confidence>"
