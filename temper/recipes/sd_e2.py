"""Several strategies in one answer, rewarded for being different, and for ending once one is right."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from temper.methods.objectives.sd_e2 import sd_e2 as method
from temper.models.embeddings import SentenceEmbedder
from temper.parts.strategies import NGRAMS
from temper.recipe import extends
from temper.recipes.common import SUITE, post_train, tasks_for
from temper.recipes.imitation import taught
from temper.run import Run
from temper.tasks.skills import SKILLS
from temper.tasks.task import Task

ASK = (
    "Try different strategies, each in <strategy> and </strategy> inside of <think> and </think>, until one leads to "
    "the answer; then give the answer."
)


@extends(post_train, without=("method", "name"))
def sd_e2(
    out: Path = Path("runs/sd-e2"),
    diversity: float = 1.0,
    form: float = 1.0,
    efficiency: float = 1.0,
    tau: float = 0.8,
    most: int = 5,
    gated: bool = True,
    embedder: str = "",
    beta: float = 0.0,
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
    """A reward for different strategies in one answer, by their embeddings (SD-E², 2026).

    out            directory of the run: RL starts from the model that the cold start leaves there
    diversity      weight of the strategies' diversity, beside 1 for a right answer
    form           weight of having at least one strategy and an answer
    efficiency     weight of ending after the first right strategy
    tau            cosine from which on two strategies are the same
    most           so many different strategies have the full reward
    gated          diversity counts for right answers only
    embedder       a sentence model, a directory or a hub id (default: hashed n-grams of the wording)
    beta           weight of the KL to the starting weights (0: none, and no reference model)
    cold_start     steps that teach the bundled model to try several times, a line each (0: none)
    cold_start_lr  its learning rate
    system         a system message that asks for strategies (default: a sentence, where there is no cold start)
    lr             peak learning rate of RL
    minibatches    optimiser steps on each batch
    """
    tasks = tasks_for(data, None, 0, seed)[0][:1000] if cold_start and data == SUITE else []
    phases, model = taught(tries, tasks, out, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options)

    def make(policy: Any) -> Any:
        return method(
            policy, embedder=SentenceEmbedder(embedder) if embedder else NGRAMS, diversity=diversity, form=form,
            efficiency=efficiency, tau=tau, most=most, gated=gated, reference=policy.reference() if beta else None,
            beta=beta, minibatches=minibatches,
        )  # fmt: skip

    rl = post_train(
        make, name="sd-e2", system=ASK if system is None and not phases else system, data=data, model=model,
        steps=steps, lr=lr, seed=seed, **options,
    )  # fmt: skip
    return [*phases, rl]


def tries(task: Task, context: str) -> str:
    """One to three ways to think, long, short or with a slip, and the last one's answer."""
    draw = Random(task.id)
    styles = [draw.choice(("long", "short", "slip")) for _ in range(draw.randint(1, 3))]
    told = [str(SKILLS[task.source].demonstrate(task, draw, s)[0]["content"]) for s in styles]
    thoughts = [t.rpartition("</think>")[0].removeprefix("<think>") for t in told]
    lines = "\n".join(t for t in thoughts if t)
    return f"<think>{lines}</think>{told[-1].rpartition('</think>')[2]}"
