"""Think2SQL: questions to databases, rewarded by what the queries bring back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from temper.envs.single import SingleTurn
from temper.methods.environments.think2sql import think2sql as method
from temper.parts.rewards import Rewards
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.imitation import cold_start as imitate
from temper.recipes.imitation import left_by
from temper.recipes.zerosearch import asked
from temper.rewards.load import Reward
from temper.rewards.sql import SqlReward, reasoning_answer, think_answer
from temper.run import Run
from temper.tasks.task import Task
from temper.tasks.text_to_sql import about_tables, rows_as_tasks

TOYS = "toys"  # bundled: questions to made-up tables


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def think2sql(
    out: Path = Path("runs/think2sql"),
    questions: str = TOYS,
    eval_questions: str | None = None,
    eval_tasks: int = 60,
    databases: Path = Path("databases"),
    score: Literal[
        "ex", "bird", "qatch", "small_update", "small_update_formatted", "small_update_buckets", "sql_r1", "arctic"
    ] = "ex",
    tag: Literal["think", "reasoning"] = "think",
    weights: tuple[float, float] = (0.85, 0.15),
    slack: float = 2.0,
    most: float = 60.0,
    length: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    clip_norm: float = 0.2,
    filter_truncated: bool = True,
    minibatches: int = 1,
    cold_start: int = 60,
    cold_start_lr: float = 2e-3,
    model: str = "temper-tiny",
    steps: int = 20,
    groups: int = 8,
    attempts: int = 16,
    lr: float = 3e-4,
    max_tokens: int = 96,
    seed: int = 0,
    **options: Any,
) -> list[Run]:
    """Text to SQL with sequence ratios and the batch's standard deviation (Papicchio et al. 2025).

    out               directory of the run: RL starts from the model that the cold start leaves there
    questions         "toys" (bundled), or rows with question, SQL (or query, or answer) and db (a file) or db_id
    eval_questions    held-out rows (default: a fifth of the toys, else the last part of questions)
    eval_tasks        held-out questions
    databases         folder of DB_ID/DB_ID.sqlite
    score             how a query is judged: see temper.rewards.sql
    tag               of the reasoning, in the format
    weights           of the score, and of the format <tag>…</tag><answer>…</answer>
    slack             seconds that a query may take beside 1.2 × the reference's own time (the paper: 10)
    most              seconds that any query may take (the paper: 500)
    length            strength of the length term (0: none; the paper's variant 0.1)
    clip_low          range of the sequence's probability ratio below 1
    clip_high         and above 1
    clip_norm         highest norm of the gradient
    filter_truncated  answers that ran into max_tokens are not trained on
    minibatches       optimiser steps on each batch
    cold_start        steps of imitation before RL (0: none), for the bundled questions only
    cold_start_lr     its learning rate
    groups            questions in a step
    attempts          answers to each question, compared with one another
    lr                peak learning rate
    max_tokens        longest answer, in tokens
    """
    bundled = questions == TOYS
    train, held_out = asked(about_tables() if bundled else None, questions, eval_questions, eval_tasks, seed)
    train = train if bundled else rows_as_tasks(train, databases)
    held_out = held_out if bundled and eval_questions is None else rows_as_tasks(held_out, databases)
    phases = []
    if cold_start and bundled:
        phases.append(
            imitate(SingleTurn(), says, train, model=model, steps=cold_start, lr=cold_start_lr, seed=seed, **options)
        )
        model = left_by(out)
    format_ = think_answer if tag == "think" else reasoning_answer
    judge = Rewards(
        [Reward(SqlReward(score, tag, slack, most), name=score), Reward(format_, name="format")],
        weights,
        timeout=2 * most + 10,
    )
    judge.check([*train[:1], *held_out[:1]])
    rl = train_on(
        lambda policy: method(
            policy, clip_low=clip_low, clip_high=clip_high, length=length, filter_truncated=filter_truncated,
            minibatches=minibatches,
        ),
        name="think2sql", train=train, held_out=held_out, judges=[judge], model=model, steps=steps,
        groups=groups, attempts=attempts, lr=lr, max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    policy = rl.roles["solver"]
    policy.optimizer = replace(policy.optimizer, clip=clip_norm)
    rl.threads = 1 if bundled else 0  # temper-tiny is too small for more
    return [*phases, rl]


def says(task: Task, context: str) -> str:
    """A demonstration: the condition as a thought, then the query; a third of them slips, so that something is left."""
    rng = Random(f"{task.id}/{len(context)}")
    query = str(task.answer)
    slip = rng.random()
    if slip < 0.12:
        query = query.replace("ORDER BY", "ORDER") if "ORDER" in query else query.replace("name", "*")
    elif slip < 0.24:
        query = query.split(" WHERE")[0]
    elif slip < 0.34:
        return f"<answer>{query}</answer>"
    return f"<think>{query.partition('WHERE ')[2]}</think><answer>{query}</answer>"
