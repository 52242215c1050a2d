"""GRPO in an environment of verifiers."""

from __future__ import annotations

import json
from typing import Any

from temper.envs.adapters.verifiers import Verifiers
from temper.errors import UserError
from temper.methods.objectives.grpo import grpo
from temper.objective import token_mean
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.run import Run

SUMS = """{"gym": [{"name": "chain_sum", "weight": 1, "config": {"max_terms": 2, "min_digits": 1, "max_digits": 2}}],
"system_prompt": "Put the answer between <answer> and </answer>."}"""


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env"))
def verifiers(
    env: str = "verifiers:ReasoningGymEnv",
    args: str = SUMS,
    blame: bool = False,
    timeout: float = 120.0,
    eval_tasks: int = 64,
    **options: Any,
) -> Run:
    """GRPO in an environment of verifiers, judged by its rubric (default: sums, in verifiers' own reasoning-gym).

    env         name of an installed environment (what load_environment takes), or module:Class
    args        of the environment, as JSON
    blame       a reward function that raises counts as 0, as in verifiers itself
    timeout     seconds of one rollout
    eval_tasks  held-out tasks: the environment's evaluation data, else its last examples
    """
    played = Verifiers(env, arguments(args), timeout=timeout, blame=blame)
    train, held_out = played.split(eval_tasks)
    return train_on(
        lambda policy: grpo(policy, beta=0.0, per=token_mean),
        name=f"verifiers-{played.name}", train=train, held_out=held_out, env=played, **options,
    )  # fmt: skip


def arguments(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise UserError(f"args must be JSON, such as '{{\"n\": 3}}': {error}")
    if not isinstance(found, dict):
        raise UserError(f"args must be a JSON object, got {text[:80]}")
    return found
