"""A doctor learns to ask: twenty questions with a patient who is a script, after a short supervised start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from temper.envs.consultation import Consultation, plain, tagged
from temper.errors import UserError
from temper.methods.environments.doctoragent_rl import doctoragent_rl as method
from temper.parts.noted import Noted
from temper.policy import Policy
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.imitation import left_by, of_dialogues
from temper.run import Run
from temper.tasks.cases import case, shown_consultation
from temper.tasks.cases import patient as scripted
from temper.tasks.data import load_tasks
from temper.tasks.task import Task


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def doctoragent_rl(
    fewest: int = 2,
    most: int = 6,
    cases: str = "",
    patient: str = "",
    thoughts: bool = False,
    cold_start: int = 200,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    entropy: float = 1e-3,
    minibatches: int = 1,
    model: str = "temper-tiny",
    steps: int = 50,
    groups: int = 12,
    attempts: int = 8,
    lr: float = 5e-4,
    max_tokens: int = 48,
    eval_tasks: int = 100,
    eval_attempts: int = 2,
    eval_every: int = 0,
    seed: int = 0,
    out: Path = Path("runs/doctoragent-rl"),
    **options: Any,
) -> Run | list[Run]:
    """DoctorAgent-RL (Feng et al. 2025) on twenty questions: who asks well within a budget that is drawn and shown?

    fewest        turns that a doctor may have
    most          turns that a doctor may have (the same as fewest: a fixed budget; the release: 10)
    cases         a file of cases (prompt, case, diagnosis, recommendation) instead; the last fifth is held out
    patient       model of the patient, which stays as it is (else a script, that knows twenty questions only)
    thoughts      ask for <think>…</think><answer>…</answer>, as released
    cold_start    steps of a first phase that imitates a doctor who asks at random (0: none)
    clip_low      range of the probability ratio below 1
    clip_high     range above 1
    entropy       weight of the entropy bonus
    minibatches   optimiser steps on each batch
    groups        patients in a step
    attempts      consultations of each
    lr            peak learning rate
    max_tokens    longest turn, in tokens
    eval_tasks    held-out patients
    eval_attempts consultations of each of them
    out           directory of the run: the second phase finds there what the first one learned
    """
    train, held_out = real(cases, patient, eval_tasks) if cases or patient else toy(seed, eval_tasks)
    cold_start = 0 if cases else cold_start
    start = left_by(out, "consultations") if cold_start else model
    form: dict[str, Any] = {"budget": (fewest, most), "parse": tagged if thoughts else plain}
    env = Consultation(**form) if cases else Consultation(scripted, reminder="", **form)
    run = train_on(
        partial(method, env=env, clip_low=clip_low, clip_high=clip_high, entropy=entropy, minibatches=minibatches),
        name="doctoragent-rl", train=train, model=start, steps=steps, groups=groups,
        attempts=attempts, lr=lr, max_tokens=max_tokens, eval_attempts=1, eval_every=0, seed=seed, **options,
    )  # fmt: skip
    run.probes.append(Noted(held_out, eval_attempts, eval_every))
    if patient:
        run.roles = {**run.roles, "patient": Policy("patient", patient, trainable=False)}
        run.updates[0].roles = ("doctor",)
    run.threads = 0 if cases else 1  # the bundled model is too small for more
    return [consultations(model, cold_start, (fewest, most), thoughts, seed), run] if cold_start else run


def toy(seed: int, eval_tasks: int) -> tuple[list[Task], list[Task]]:
    """(for training, held out): twenty questions."""
    return [case(k, seed) for k in range(4000)], [case(k, seed=1_000_000) for k in range(eval_tasks)]


def real(cases: str, patient: str, eval_tasks: int) -> tuple[list[Task], list[Task]]:
    """(for training, held out) of a file."""
    if not cases or not patient:
        raise UserError("--cases and --patient belong together: a script knows no other cases, and a model needs some")
    tasks = list(load_tasks(cases))
    for key in ("case", "diagnosis", "recommendation"):
        if bare := next((t for t in tasks if not t.info.get(key)), None):
            raise UserError(f"{cases}: task {bare.id!r} has no {key!r}")
    cut = len(tasks) - max(1, min(eval_tasks, len(tasks) // 5))
    return tasks[:cut], tasks[cut:]


def consultations(model: str, steps: int, budget: tuple[int, int], thoughts: bool, seed: int) -> Run:
    """Imitate the form of a consultation: a doctor who asks at random, repeats itself and is often wrong."""
    shown = partial(shown_consultation, seed=seed, budget=budget, thoughts=thoughts)
    return of_dialogues("consultations", shown, model=model, steps=steps, seed=seed)
