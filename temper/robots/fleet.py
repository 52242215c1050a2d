"""Actors and what they get and give: processes of this machine, or stepped in this one where time is to be counted."""

from __future__ import annotations

import copy
import logging
import os
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

LOG = logging.getLogger("temper.robots")
TRIES = 3  # starts of an actor without an episode in between


@dataclass
class Fleet:
    """A probe that publishes weights after every step, and whose actors send episodes.

    Processes end with this one. One that has ended is started again, unless it sent nothing in three starts.
    Of a folder that was used before, a run reads what came since: since its checkpoint where it is resumed.

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
        self._starts: dict[str, int] = {}  # of each actor, since it sent an episode
        self._seen: list[str] | None = None  # episodes, by the checkpoint that is resumed
        self.restarts = 0
        self._stepped: list[Actor] = []
        self._home: Any = None
        self._waiting: list[Episode] = []  # played in this process, and not asked for yet
        self.storage: Storage | None = None

    def new(self) -> list[Episode]:
        """Episodes that came since the last call."""
        found, self._waiting = self._waiting, []
        found += self.storage.new() if self.storage and not self.stepped else []
        self._starts |= {e.actor: 0 for e in found}
        return found

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        policy = run.roles["solver"]
        if self.storage is None:
            self._home = None if self.folder else tempfile.TemporaryDirectory(prefix="temper-fleet-")
            self.storage = Storage(self.folder or Path(self._home.name))
            if self.folder:
                self.storage.seen.update(self.storage.names() if self._seen is None else self._seen)
        self.storage.publish(policy.learner.weights(), step)
        if step == run.steps:
            self._stop()
        elif self.stepped:
            await self._play(policy, step)
        elif not self._processes:
            self._processes = [self._start(f"actor{n}") for n in range(self.actors)]
        else:
            self._alive()
        if step not in (0, run.steps) and step % self.every:
            return {}
        watched: Any = Actor("watched", self.storage, policy.learner.module, policy.tokenizer, self.tasks)  # type: ignore[attr-defined]
        found = {g.name: await succeeds(watched, g, g.starts()[:: max(1, len(g.starts()) // 60)]) for g in self.tasks}
        mean = sum(found.values()) / len(found)
        counts = {"sop/step": step, "sop/restarts": self.restarts, "sop/malformed": self.storage.malformed}
        return {
            "sop/success": mean, **{f"sop/success/{k}": v for k, v in found.items()},
            **{k: float(v) for k, v in counts.items()},
        }  # fmt: skip

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

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        assert self.storage is not None
        self._starts[name] = self._starts.get(name, 0) + 1
        options = {
            "storage": self.storage.folder, "model": self.model, "name": name, "seed": self.seed, "pause": self.pause,
            "tasks": ",".join(g.name for g in self.tasks), "parent": os.getpid(),
        }  # fmt: skip
        words = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
        return subprocess.Popen([sys.executable, "-m", "temper.robots.actor", *words])

    def _alive(self) -> None:
        """Start again who has ended; UserError when every actor has and none may: nothing new would ever come."""
        for n, process in enumerate(self._processes):
            name = f"actor{n}"
            if process.poll() is None or self._starts[name] > TRIES:
                continue
            if self._starts[name] < TRIES:
                LOG.warning("%s ended with %s: started again", name, process.returncode)
                self.restarts += 1
                self._processes[n] = self._start(name)
            else:
                LOG.warning(
                    "%s sent nothing in %d starts, and ended with %s: left out", name, TRIES, process.returncode
                )
                self._starts[name] += 1
        if all(p.poll() is not None for p in self._processes):
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
        seen = sorted(self.storage.seen) if self.storage else []
        return {"waiting": [e.to_json() for e in self._waiting], "seen": seen}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._waiting = [Episode.read(text) for text in saved["waiting"]]
        self._seen = saved.get("seen")
