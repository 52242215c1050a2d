"""Actors and what they get and give: processes of this machine, or stepped in this one where time is to be counted."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import UserError
from temper.robots.actor import Actor, succeeds
from temper.robots.grid import Grid
from temper.robots.storage import Episode, Storage

if TYPE_CHECKING:
    from temper.run import Run


@dataclass
class Fleet:
    """A probe that publishes weights after every step, and whose actors send episodes.

    actors    how many; pause: seconds that an episode of a process takes at least
    stepped   no processes: every actor plays that many episodes of each step in this process (0: processes)
    folder    where weights and episodes go (None: a temporary one)
    every     steps between two looks at how often the policy reaches its goal alone
    """

    tasks: Sequence[Grid]
    actors: int = 1
    model: str = "temper-tiny"
    stepped: float = 0.0
    pause: float = 0.0
    folder: Path | None = None
    every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.actors < 1:
            raise UserError(f"a fleet has at least one actor, got {self.actors}")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stepped: list[Actor] = []
        self._home: Any = None
        self._waiting: list[Episode] = []  # played in this process, and not asked for yet
        self.storage: Storage | None = None

    def new(self) -> list[Episode]:
        """Episodes that came since the last call."""
        found, self._waiting = self._waiting, []
        return found + (self.storage.new() if self.storage and not self.stepped else [])

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        policy = run.roles["solver"]
        if self.storage is None:
            self._home = None if self.folder else tempfile.TemporaryDirectory(prefix="temper-fleet-")
            self.storage = Storage(self.folder or Path(self._home.name))
        self.storage.publish(policy.learner.weights(), step)
        if step == run.steps:
            self._stop()
        elif self.stepped:
            await self._play(policy, step)
        elif not self._processes:
            self._start()
        self._alive()
        if step not in (0, run.steps) and step % self.every:
            return {}
        watched: Any = Actor("watched", self.storage, policy.learner.module, policy.tokenizer, self.tasks)  # type: ignore[attr-defined]
        found = {g.name: await succeeds(watched, g, g.starts()[:: max(1, len(g.starts()) // 60)]) for g in self.tasks}
        mean = sum(found.values()) / len(found)
        return {"sop/success": mean, **{f"sop/success/{k}": v for k, v in found.items()}, "sop/step": float(step)}

    async def _play(self, policy: Any, step: int) -> None:
        """The episodes of one step: `stepped` of each actor, also where that is less than one."""
        if not self._stepped:
            module = copy.deepcopy(policy.learner.module)
            assert self.storage is not None
            self._stepped = [
                Actor(f"actor{n}", self.storage, copy.deepcopy(module), policy.tokenizer, self.tasks, self.seed)
                for n in range(self.actors)
            ]
            for actor in self._stepped:
                actor.number = int(step * self.stepped)
        for actor in self._stepped:
            while actor.number < int((step + 1) * self.stepped):
                self._waiting.append(await actor.episode())

    def _start(self) -> None:
        assert self.storage is not None
        for n in range(self.actors):
            options = {
                "storage": self.storage.folder, "model": self.model, "name": f"actor{n}", "seed": self.seed,
                "tasks": ",".join(g.name for g in self.tasks), "pause": self.pause,
            }  # fmt: skip
            words = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
            self._processes.append(subprocess.Popen([sys.executable, "-m", "temper.robots.actor", *words]))

    def _alive(self) -> None:
        """UserError when every actor has ended: nothing new would ever come."""
        if self._processes and all(p.poll() is not None for p in self._processes):
            raise UserError(f"all {self.actors} actors have ended: their own output says why")

    def _stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []

    def close(self) -> None:
        self._stop()
        if self._home is not None:
            self._home.cleanup()

    def state_dict(self) -> dict[str, Any]:
        return {"waiting": [e.to_json() for e in self._waiting]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._waiting = [Episode.read(text) for text in saved["waiting"]]
