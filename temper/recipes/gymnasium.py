"""GRPO in an environment of Gymnasium."""

from __future__ import annotations

from typing import Any, Literal

from temper.envs.adapters.gymnasium import Gymnasium, gym_tasks
from temper.methods.objectives.grpo import grpo
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.verifiers import arguments
from temper.run import Run

HELD_OUT = 1_000_000  # the first seed of evaluations
PROMPTS = {"FrozenLake-v1": "0, 1, 2 or 3?", "CliffWalking-v1": "0, 1, 2 or 3?", "Blackjack-v1": "0 or 1?"}
ARGUMENTS: dict[str, Any] = {"FrozenLake-v1": {"is_slippery": False}}


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def gymnasium(
    env: str = "FrozenLake-v1",
    args: str = "",
    prompt: str = "",
    names: tuple[str, ...] = (),
    turns: int = 20,
    fresh: bool = True,
    unreadable: Literal["told", "ends"] = "told",
    cost: float = 0.05,
    steps: int = 40,
    groups: int = 4,
    attempts: int = 32,
    lr: float = 5e-4,
    max_tokens: int = 2,
    eval_tasks: int = 16,
    **options: Any,
) -> Run:
    """GRPO in an environment of Gymnasium, one action a turn (default: FrozenLake, 4×4, not slippery).

    env         its id
    args        of gymnasium.make, as JSON
    prompt      before the observation (default: the numbers of the actions, for some environments)
    names       of the actions, in their order (default: their numbers)
    turns       most turns that the policy takes
    fresh       show only the last observation, in a fresh context for each turn
    unreadable  what a turn without an action brings: the policy is told, or the attempt ends; cost: of such a turn
    groups      seeds of the environment in a step
    max_tokens  longest turn, in tokens
    eval_tasks  seeds that are not trained on
    """
    make = arguments(args) or ARGUMENTS.get(env, {})
    world = Gymnasium(env, make, names, turns=turns, fresh=fresh, unreadable=unreadable, cost=cost)
    told = prompt or PROMPTS.get(env, "")
    return train_on(
        lambda policy: grpo(policy, beta=0.0), name="gymnasium", train=gym_tasks(env, prompt=told),
        held_out=gym_tasks(env, eval_tasks, told, HELD_OUT), env=world, steps=steps, groups=groups, attempts=attempts,
        lr=lr, max_tokens=max_tokens, **options,
    )  # fmt: skip
