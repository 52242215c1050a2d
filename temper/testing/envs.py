"""A check of an environment: one play of a task by a random model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import REWARD
from temper.episode import ENV, Episode
from temper.policy import Policy, Seat
from temper.request import Env, writes_of
from temper.tasks.task import Task
from temper.testing.toys import random_ends, toy_model, toy_tasks


def check_env(env: Env, folder: Path, *, task: Task | None = None, model: str | None = None) -> Episode:
    """Play `task` twice with the same seeds and say what is wrong; returns the episode.

    Checked: the same seeds give the same episode; somebody is judged, by a role that the environment names; every id
    that a role wrote has a log-prob (unless `samples` is False); a reward comes if and only if `writes` says so; the
    episode survives JSON.
    """
    name = type(env).__name__
    policy = Policy(model=model or toy_model(folder / "model"))
    policy.open()
    episode, again = asyncio.run(_twice(env, policy, task or toy_tasks()[0]))
    policy.close()
    assert episode == again, f"{name} does not play the same with the same seeds: draw randomness from the seat"
    assert episode.trajectories, f"{name} judges nothing: its episode has no trajectory"
    unknown = {t.role for t in episode.trajectories} - set(_roles(env))
    assert not unknown, f"{name} judges {unknown}, which are not in its `roles`"
    if getattr(env, "samples", True):
        bare = [t for t in episode.turns if t.author != ENV and (t.logp is None or len(t.logp) != len(t.ids))]
        assert not bare, f"{name} has a turn by {bare[0].author!r} without log-probs: record completions with `sampled`"
    b = Batch.of([episode])
    assert (REWARD in b) == (REWARD in writes_of(env)), f"{name}: `writes` must name REWARD if it judges, and only then"

    assert Episode.from_json(json.loads(json.dumps(episode.to_json()))) == episode, f"{name}: JSON changes its episode"
    return episode


async def _twice(env: Env, policy: Policy, task: Task) -> tuple[Episode, Episode]:
    params = random_ends(SamplingParams())

    def seats() -> dict[str, Seat]:
        return {role: Seat(role, policy, params, 0, ("check",)) for role in _roles(env)}

    first = await env.play(task, seats())
    if hasattr(policy.sampler, "forget"):
        policy.sampler.forget()  # stored keys are the same numbers but for rounding
    return first, await env.play(task, seats())


def _roles(env: Env) -> tuple[str, ...]:
    return tuple(getattr(env, "roles", ("solver",)))
