"""Attempts with "try again" as the only feedback, on your own questions, or on a hidden number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from temper.envs.try_again import TryAgain
from temper.methods.rollouts.ufo_unary_feedback import ufo_unary_feedback as method
from temper.recipe import extends
from temper.recipes.common import tasks_for, train_on
from temper.run import Run
from temper.tasks.task import Task


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def ufo_unary_feedback(
    data: str | None = None,
    turns: int = 5,
    gamma: float = 0.5,
    violation: float = 0.1,
    repetition: float = 0.5,
    credit: Literal["critic", "group"] = "group",
    beta: float = 0.0,
    share: float = 0.25,
    entropy: float = 1e-3,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    steps: int = 40,
    groups: int = 8,
    attempts: int = 16,
    lr: float = 3e-4,
    max_tokens: int = 24,
    eval_tasks: int = 64,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Several attempts at a question, told only that the last one was wrong (2025).

    data        questions with answers, in any form that the recipe grpo takes (default: guess a number from 1 to 4)
    turns       most attempts at a question in an episode
    gamma       reward of a right answer at the k-th attempt: gamma^(k−1)
    violation   taken off for an attempt without an answer
    repetition  taken off by the share of answers that were given before
    credit      of a critic (PPO, as in the paper), or against the group
    beta        weight of the KL to the starting weights, in the reward (with a critic; the paper: 0.001)
    share       of the groups that is trained on: those whose rewards vary most
    entropy     weight of the entropy bonus
    clip_low    range of the probability ratio below 1; clip_high: above 1
    groups      questions in a step
    attempts    episodes of each question
    lr          peak learning rate
    max_tokens  longest attempt, in tokens
    eval_tasks  held-out questions
    seed        of everything that is drawn
    """
    train, held_out = (hidden_numbers(), hidden_numbers()[:eval_tasks]) if data is None else tasks_for(
        data, None, eval_tasks, seed
    )[:2]  # fmt: skip
    env = TryAgain(turns, gamma, violation, repetition)

    def make(policy: Any) -> Any:
        return method(
            policy, env=env, critic=credit == "critic", reference=policy.reference() if beta else None, beta=beta,
            share=share, entropy=entropy, clip_low=clip_low, clip_high=clip_high,
        )  # fmt: skip

    run = train_on(
        make, name="ufo-unary-feedback", train=train, held_out=held_out, steps=steps, groups=groups, attempts=attempts,
        lr=lr, max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    solved = TryAgain(turns, gamma=1.0, violation=0.0, repetition=0.0)  # reward 1 for an answer within the turns
    run.probes = [replace(p, env=solved) for p in run.probes]
    return run


def hidden_numbers(highest: int = 4) -> list[Task]:
    """One question for every number: nothing in it tells which one is meant."""
    question = f"Guess my number from 1 to {highest}."
    return [Task(f"hidden/{n}", question, str(n), source="hidden number") for n in range(1, highest + 1)]
