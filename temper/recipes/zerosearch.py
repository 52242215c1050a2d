"""ZeroSearch: learn to search where a policy, or a set of rules, plays the search engine and gets noisier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from temper.errors import UserError
from temper.method import Method
from temper.methods.environments.zerosearch import zerosearch as method
from temper.parts.rewards import Rewards
from temper.policy import Policy
from temper.recipe import extends
from temper.recipes.common import tasks_for, train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.rewards.load import Reward, rewards_from
from temper.rewards.qa import AnswerReward
from temper.run import Run
from temper.tasks.data import load_tasks
from temper.tasks.knowledge import World, chains, look_up
from temper.tasks.suites import is_held_out
from temper.tasks.task import Task

WORLD = "world"  # bundled: one-hop questions about a made-up world
SHOWN_NOISE = 0.5  # P(noisy) in the demonstrations


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def zerosearch(
    out: Path = Path("runs/zerosearch"),
    questions: str = WORLD,
    eval_questions: str | None = None,
    reward: tuple[str, ...] = (),
    eval_tasks: int = 100,
    simulator: str = "rules",
    noise_start: float = 0.0,
    noise_end: float = 0.5,
    noise_base: float = 4.0,
    eval_noise: float = 0.5,
    turns: int = 3,
    top: int = 1,
    explain: bool = False,
    beta: float = 0.0,
    clip: float = 0.2,
    cold_start: int = 100,
    cold_start_lr: float = 2e-3,
    model: str = "temper-tiny",
    steps: int = 20,
    groups: int = 8,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 40,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """GRPO against a simulated search engine whose documents get noisier (Sun et al. 2025).

    out            directory of the run: RL starts from the model that the cold start leaves there
    questions      "world" (bundled), a file (JSONL, JSON, Parquet) of questions, or a Hugging Face data set
    eval_questions held-out questions (default: a fifth of the world's, else the last part of questions)
    reward         FILE.py:function, package.module:function or a bundled name, added up (default: F1 as in the paper)
    eval_tasks     held-out questions
    simulator      rules (of the bundled world), self (the model in training), or a model, frozen
    noise_start    P(noisy document) at the first step
    noise_end      P(noisy document) at the last step
    noise_base     how late it rises: P = start + (end − start)·(base^(i/m) − 1)/(base − 1)
    eval_noise     P(noisy document) in evaluations
    turns          most searches of an episode (the paper: 5)
    top            documents that a search brings
    explain        the prompt explains the tags (a model that has not seen them needs it)
    beta           weight of the KL to the model that RL starts from (0: none; the paper's 0.001)
    clip           range of the probability ratio
    cold_start     steps of imitation before RL (0: none), for the bundled world only
    cold_start_lr  its learning rate
    groups         questions in a step
    attempts       episodes of each question, compared with one another
    lr             peak learning rate
    max_tokens     longest call, in tokens
    """
    bundled = questions == WORLD
    world = World()
    train, held_out = asked(chains(world) if bundled else None, questions, eval_questions, eval_tasks, seed)
    if not bundled and simulator == "rules":
        raise UserError("the rules of the simulator know the bundled world only: --simulator self, or a model")
    engine = look_up(world, top) if simulator == "rules" else None
    given: dict[str, Any] = {"simulator": engine, "turns": turns, "top": top, "explain": explain}
    phases = []
    if cold_start and bundled:
        known: dict[str, Any] = {**given, "simulator": look_up(world, top)}
        env: Any = method(Policy(), steps=1, start=SHOWN_NOISE, end=SHOWN_NOISE, **known).env
        phases.append(imitate(env, says, train, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options))
        model = left_by(out)

    def make(policy: Policy) -> Method:
        reference = policy.reference() if beta else None
        noise: dict[str, Any] = {"start": noise_start, "end": noise_end, "base": noise_base}
        return method(policy, steps=steps, reference=reference, beta=beta, clip=clip, **noise, **given)

    measured = [noisy(t, eval_noise) for t in held_out]
    judges = rewards_from(reward) or [Reward(AnswerReward(), name="f1")]
    rl = train_on(
        make, name="zerosearch", train=train, held_out=measured, judges=[Rewards(judges)], model=model, steps=steps,
        groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    if simulator not in ("rules", "self"):
        rl.roles = {**rl.roles, "simulator": Policy(name="simulator", model=simulator, trainable=False)}
    rl.threads = 1 if bundled else 0  # temper-tiny is too small for more
    return [*phases, rl]


def asked(
    bundled: Sequence[Task] | None, questions: str, eval_questions: str | None, eval_tasks: int, seed: int
) -> tuple[Sequence[Task], Sequence[Task]]:
    """(for training, held out): of bundled questions a fifth is never trained on; without them as `tasks_for`."""
    if bundled is None:
        return tasks_for(questions, eval_questions, eval_tasks, seed)[:2]
    out = [is_held_out(str(t.prompt)) for t in bundled]
    held_out = load_tasks(eval_questions) if eval_questions else [t for t, o in zip(bundled, out) if o]
    return [t for t, o in zip(bundled, out) if not o], held_out[:eval_tasks]


def noisy(task: Task, noise: float) -> Task:
    """The task with a noise of its own, whatever the step is."""
    return replace(task, info={**task.info, "noise": noise})


def says(task: Task, context: str) -> str:
    """A demonstration: search; answer from a document that says it; else search again or, as often, make a guess.

    A fifth of the answers slips, so that there is something to learn.
    """
    rng = Random(f"{task.id}/{len(context)}")
    query = str(task.prompt).removeprefix("What is the ").rstrip("?")
    read = re.findall(r"Doc \d+: (.*)", context)
    useful = [line.rpartition(": ")[2] for line in read if ": " in line]
    if not useful and (not read or rng.random() < 0.5):
        return f"<search>{query}</search>"
    value = useful[-1] if useful else query.partition(" of ")[2]
    if rng.random() < 0.2:
        at = rng.randrange(len(value))
        value = value[:at] + value[at + 1 :]
    return f"<answer>{value}</answer>"
