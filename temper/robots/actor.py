"""An actor: plays episodes with the weights that are newest when each begins, and somebody who takes over.

python -m temper.robots.actor --storage DIR --model MODEL --name a --tasks reach,mirror --seed 0
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from temper import streams
from temper.backends.base import SamplingParams
from temper.backends.local_sampler import LocalSampler
from temper.models import load
from temper.models.render import renderer_of
from temper.robots.grid import MOVES, Grid, Place, distance
from temper.robots.storage import Episode, Step, Storage

GRIDS = {"reach": Grid("reach"), "mirror": Grid("mirror", mirrored=True)}


@dataclass
class Actor:
    """patience: moves in a row that come no nearer, before the expert takes over; takeover: for how many moves."""

    name: str
    storage: Storage
    module: Any
    tokenizer: Any
    tasks: Sequence[Grid]
    seed: int = 0
    patience: int = 2
    takeover: int = 3

    def __post_init__(self) -> None:
        self.sampler = LocalSampler(self.module, self.tokenizer)
        self.version, self.number = -1, 0
        self.moves = {self.tokenizer.encode(m, add_special_tokens=False)[0]: m for m in MOVES}

    def renew(self) -> None:
        """The newest weights, if they are others: between episodes only."""
        if found := self.storage.latest(self.version):
            mine = dict(self.module.named_parameters())
            with torch.no_grad():
                for name, value in found[1].items():
                    mine[name].copy_(value)
            self.version = found[0]

    async def episode(self) -> Episode:
        """One episode, which is put into the storage."""
        self.renew()
        rng = streams.generator(self.seed, "actor", self.name, self.number)
        grid = self.tasks[int(rng.integers(len(self.tasks)))]
        at, goal = grid.starts()[int(rng.integers(len(grid.starts())))]
        version, steps, lost, helped = self.version, list[Step](), 0, 0
        while at != goal and len(steps) < grid.horizon:
            prompt = grid.prompt(at, goal)
            by = "expert" if helped or lost >= self.patience else "policy"
            helped = (helped or self.takeover) - 1 if by == "expert" else 0
            move = grid.expert(at, goal) if by == "expert" else await self.choose(prompt, len(steps))
            after = grid.after(at, move)
            lost = 0 if distance(after, goal) < distance(at, goal) else lost + 1
            steps.append(Step(prompt, move, by))
            at = after
        assert version == self.version  # no new weights inside an episode
        alone = at == goal and all(s.by == "policy" for s in steps)
        done = Episode(self.name, self.number, grid.name, version, alone, tuple(steps))
        self.storage.put(done)
        self.number += 1
        return done

    async def choose(self, prompt: list[dict[str, Any]], n: int, temperature: float = 1.0) -> str:
        render = renderer_of(self.tokenizer)
        seed = streams.key(self.seed, self.name, self.number, n)
        params = SamplingParams(max_tokens=1, allowed=tuple(self.moves), seed=seed, temperature=temperature)
        said = await self.sampler.sample(render.ids(render.text(prompt), first=True), params)
        return self.moves[said.ids[0]]


async def succeeds(actor: Actor, grid: Grid, pairs: Sequence[tuple[Place, Place]]) -> float:
    """Share of `pairs` in which the policy alone reaches the goal, without drawing at random."""

    async def one(at: Place, goal: Place) -> bool:
        for n in range(grid.horizon):
            at = grid.after(at, await actor.choose(grid.prompt(at, goal), n, temperature=0.0))
            if at == goal:
                return True
        return False

    found = await asyncio.gather(*(one(a, b) for a, b in pairs))
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser("python -m temper.robots.actor")
    for name, kind in (("storage", Path), ("model", str), ("name", str), ("tasks", str), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that an episode takes at least")
    parser.add_argument("--parent", type=int, default=0, help="the process that it ends with (0: it plays on)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    module, tokenizer = load.load_model(asked.model, device="cpu"), load.load_tokenizer(asked.model)
    grids = [GRIDS[t] for t in asked.tasks.split(",")]
    actor = Actor(asked.name, Storage(asked.storage), module, tokenizer, grids, asked.seed)
    actor.number = actor.storage.following(actor.name)
    while actor.storage.folder.exists() and asked.parent in (0, os.getppid()):
        begun = time.monotonic()
        asyncio.run(actor.episode())
        time.sleep(max(0.0, asked.pause - (time.monotonic() - begun)))


if __name__ == "__main__":
    main()
