"""Demonstrations of any environment: somebody who knows what to say plays it, and the episode is to be imitated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from temper.backends.base import SamplingParams
from temper.episode import Completion, Episode
from temper.models.load import turn_ends
from temper.models.render import renderer_of
from temper.policy import Seat
from temper.request import Env
from temper.tasks.task import Task

Says = Callable[[Task, str], str]  # (task, all that is in context) → what is said next


@dataclass
class Shown:
    """`env` played by `says` in every seat: the same turns and contexts, without log-probs and without rewards.

    What is said ends with an end token, unless it ends with one of the texts at which the environment stops.
    """

    env: Env
    says: Says
    samples = False

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(getattr(self.env, "roles", ("solver",)))

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seats = {name: _speaking(seat, task, self.says) for name, seat in roles.items()}
        episode = await self.env.play(task, seats)
        turns = tuple(replace(t, logp=None, version=-1, finish=None, reward=None) for t in episode.turns)
        trajectories = tuple(replace(t, reward=None, rewards={}) for t in episode.trajectories)
        return replace(episode, turns=turns, trajectories=trajectories)

    async def aclose(self) -> None:
        if hasattr(self.env, "aclose"):
            await self.env.aclose()


def _speaking(seat: Seat, task: Task, says: Says) -> Seat:
    """The seat with a sampler that encodes what `says` says."""
    policy, tokenizer = seat.policy, seat.tokenizer
    render, end = renderer_of(tokenizer), turn_ends(tokenizer)[-1]

    async def sample(ids: tuple[int, ...], params: SamplingParams) -> Completion:
        text = says(task, tokenizer.decode(ids))
        said = render.ids(text)
        if not text.endswith(tuple(params.stop) or ("\0",)):
            said = (*said, end)
        return Completion(said, (0.0,) * len(said), "stop", text=text)

    sampler = SimpleNamespace(sample=sample, context=getattr(policy.sampler, "context", 1 << 30))
    speaker: Any = SimpleNamespace(tokenizer=tokenizer, sampler=sampler, model=policy.model, version=policy.version)
    return Seat(seat.role, speaker, seat.params, seat._seed, seat._who)
