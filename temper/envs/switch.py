"""Several environments in one run: each task says which one plays it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from temper.columns import Column
from temper.episode import Episode
from temper.errors import unknown
from temper.policy import Seat
from temper.request import Env, writes_of
from temper.tasks.task import Task


@dataclass
class Switch:
    """`envs` by name; a task's info["env"] chooses, `default` where it says nothing."""

    envs: Mapping[str, Env]
    default: str

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r for e in self.envs.values() for r in getattr(e, "roles", ("solver",))))

    @property
    def samples(self) -> bool:
        return any(getattr(e, "samples", True) for e in self.envs.values())

    @property
    def writes(self) -> tuple[Column, ...]:
        return tuple(dict.fromkeys(c for e in self.envs.values() for c in writes_of(e)))

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        name = str(task.info.get("env", self.default))
        if name not in self.envs:
            raise unknown("environment", name, self.envs)
        return await self.envs[name].play(task, roles)
