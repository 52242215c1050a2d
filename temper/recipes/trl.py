"""GRPO in an environment that was written for TRL."""

from __future__ import annotations

import random
from typing import Any

from temper.envs.adapters.trl import Trl
from temper.foreign.find import found
from temper.methods.objectives.grpo import grpo
from temper.objective import token_mean
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.run import Run
from temper.tasks.data import load_tasks

SUMS = "temper.recipes.trl:Sums"


class Sums:
    """An environment as one writes it for TRL: `reset` makes the task, and the reward function reads it here."""

    def reset(self, **row: Any) -> str:
        terms = [random.randrange(1, 100) for _ in range(2)]
        self.total = str(sum(terms))
        return f"State the final answer to the following arithmetic problem: {' + '.join(map(str, terms))} ="


def right(environments: list[Sums], completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """1 for the sum, and nothing else behind the thinking."""
    said = [c[-1]["content"].rpartition("</think>")[2].strip() for c in completions]
    return [float(s == e.total) for s, e in zip(said, environments)]


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def trl(
    env: str = SUMS,
    tool: tuple[str, ...] = (),
    reward_func: tuple[str, ...] = (),
    data: str = "",
    turns: int = 4,
    timeout: float = 30.0,
    shared: bool = False,
    eval_tasks: int = 64,
    **options: Any,
) -> Run:
    """GRPO in an environment that was written for TRL's environment_factory (default: sums).

    env          FILE.py:Class or package.module:Class
    tool         FILE.py:function: a tool beside the environment's methods
    reward_func  FILE.py:function of TRL's signature, beside the environment's get_reward; several are added up
    data         rows for reset and the reward functions, in any form that tasks take (default: reset makes the tasks)
    turns        most turns that the policy takes
    timeout      seconds of one call of the environment
    shared       leave Python's random numbers as they are: calls run at once, and nothing repeats
    eval_tasks   held-out tasks: the last ones
    """
    rewards = [found(r) for r in reward_func or (("temper.recipes.trl:right",) if env == SUMS else ())]
    played = Trl(found(env), list(map(found, tool)), rewards, turns=turns, timeout=timeout, shared=shared)
    tasks = list(load_tasks(data)) if data else played.tasks()
    first = len(tasks) - min(eval_tasks, len(tasks) // 5)
    return train_on(
        lambda policy: grpo(policy, beta=0.0, per=token_mean), name="trl", train=tasks[:first], held_out=tasks[first:],
        env=played, **options,
    )  # fmt: skip
