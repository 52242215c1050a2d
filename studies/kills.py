"""Kill -9 every kind of process of a run on Ray at random moments, and compare it with one that nothing touched.

    python -m studies.kills [--kills 100] [--steps 60] [--seed 0] [--out docs/scale/kills.json]

The run plays two turns an attempt in environment actors, judges in reward actors, samples in two sampler actors, trains
in a learner actor, keeps its rows on a bus actor, and is resumed whenever its driver is killed. The other one is the
plain loop in one process, with the same seed. Metrics, transcripts, weights and the optimiser's state must be the same
to the last bit: then no attempt was lost, judged by nobody, or trained on twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from temper.backends.base import AdamW, SamplingParams
from temper.episode import Episode, Recorder
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.parts.rewards import Rewards
from temper.policy import Policy, Seat
from temper.run import Run
from temper.supervision import Faults
from temper.tasks.task import Task

GANGS = ("learner", "bus")
CLOCK = ("timing_s/", "perf/", "faults/", "sampler/", "tail/")  # metrics that tell what happened, or how fast
ROOT = Path(__file__).parents[1]


def letters(completion: str) -> float:
    """Share of small letters."""
    return sum(c.islower() for c in completion) / max(1, len(completion))


class Twice:
    """Two answers, with a word in between."""

    roles = ("solver",)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles["solver"], Recorder(task)
        first = record.add(seat.chat(task.messages), text=task.prompt if isinstance(task.prompt, str) else "")
        said = record.sampled(await seat.sample(record.context(first)), first)
        await asyncio.sleep(0.02)
        more = record.add(tuple(seat.tokenizer.encode(" again ", add_special_tokens=False)), said, text=" again ")
        again = record.sampled(await seat.sample(record.context(more)), more)
        record.judge((first, said, more, again))
        return record.episode()


def made(model: str, out: Path, steps: int, seed: int = 0) -> Run:
    """The run; one row at a time, so that no logit depends on its neighbours."""
    policy = Policy(model=model, optimizer=AdamW(lr=3e-3), max_rows=1)
    m = grpo(policy)
    tasks = [Task(f"t{i}", f"say {w}", w, source="toy") for i, w in enumerate(["ab", "ba", "cd", "dc"])]
    return Run(
        env=Twice(), curriculum=Shuffled(tasks, 3, seed), roles={"solver": policy},
        on_group=[Rewards([letters], timeout=60), *m.on_group], on_batch=m.on_batch, updates=[Update(policy, m.terms)],
        steps=steps, groups=3, sampling=SamplingParams(max_tokens=6), seed=seed, out=out, save_every=5,
        transcripts_every=1, name="kills",
    )  # fmt: skip


@dataclass
class Killer:
    """Kills processes of `ray` as planned: [(number, step, seconds after its start, role)].

    A step is not over before the kills of the steps before it are done, so that none is left out where restarts take
    long; but a learner or a bus that is dead already comes back at the run's next call only.

    log  of the kills, which outlives the driver
    """

    ray: Any
    plan: list[tuple[int, int, float, str]]
    log: Path
    step: int = 0

    def __post_init__(self) -> None:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.dead = {json.loads(line)["pid"] for line in lines}
        self.left = [k for k in self.plan if k[0] not in {json.loads(line)["number"] for line in lines}]
        self.killed = 0

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        while self._due():
            await asyncio.sleep(0.05)
        self.step = step
        return {}

    def _due(self) -> bool:
        if not self.left:
            return False
        _, at, _, role = self.left[0]
        return at < self.step and (role not in GANGS or bool(self._alive(role)))

    def start(self) -> None:
        threading.Thread(target=self._go, daemon=True).start()

    def _go(self) -> None:
        while self.left:
            number, step, seconds, role = self.left[0]
            while self.step < step:
                time.sleep(0.01)
            time.sleep(seconds)
            while not self._kill(number, role):
                time.sleep(0.05)
            self.left.pop(0)

    def _alive(self, role: str) -> list[dict[str, Any]]:
        if role == "driver":
            return [{"who": role, "pid": os.getpid()}]
        return [w for w in self.ray.where() if w["who"].startswith(role) and w["pid"] not in self.dead]

    def _kill(self, number: int, role: str) -> bool:
        alive = self._alive(role)
        if not alive:
            return False
        victim = alive[number % len(alive)]
        if role == "driver":
            self._note(number, role, victim)
        try:
            os.kill(victim["pid"], signal.SIGKILL)
        except ProcessLookupError:
            return False
        self._note(number, role, victim)
        return True

    def _note(self, number: int, role: str, victim: Mapping[str, Any]) -> None:
        self.dead.add(victim["pid"])
        self.killed += 1
        told = {"number": number, "role": role, "who": victim["who"], "pid": victim["pid"], "step": self.step}
        with self.log.open("a") as f:
            f.write(json.dumps({**told, "time": round(time.time(), 3)}) + "\n")
            f.flush()
            os.fsync(f.fileno())


def plan(kills: int, steps: int, seed: int, roles: Mapping[str, int]) -> list[tuple[int, int, float, str]]:
    """As many of each role as its share says, at steps and moments drawn from the seed."""
    draw = random.Random(seed)
    drawn = [r for r, share in roles.items() for _ in range(share)]
    drawn = (drawn * (kills // len(drawn) + 1))[:kills]
    draw.shuffle(drawn)
    moments = sorted(draw.uniform(0, steps - 2) for _ in drawn)
    return [(n, int(at), draw.uniform(0, 0.4), role) for n, (at, role) in enumerate(zip(moments, drawn))]


def placed(run: Run, journal: int = 4, **given: Any) -> Any:
    from temper.backends.ray import Ray

    faults = Faults(restarts=10_000, beat=0.5, silence=60, patience=300)
    sizes = {"samplers": 2, "environments": 2, "rewards": 2, "bus": True, "cpus": 0.01, **given}
    ray = Ray(**sizes, faults=faults, journal=journal)
    ray.place(run)
    return ray


def difference(mine: Path, other: Path) -> list[str]:
    """What differs between two finished runs, to the last bit; [] when nothing does."""
    import torch

    out = []
    for a, b in zip(metrics(mine), metrics(other), strict=True):
        out += [f"{k} of step {b['step']}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
    out += [] if transcripts(mine) == transcripts(other) else ["transcripts"]
    states = [torch.load(f / "checkpoints/latest/training.pt", weights_only=True) for f in (mine, other)]
    out += [k for k in states[0] if bits(states[0][k]) != bits(states[1][k])]
    return out


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Of every step; the record before the first, which placement alone writes, is none."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: _told(k, v) for k, v in r.items() if not k.startswith(CLOCK)} for r in rows if r["step"]]


def _told(name: str, value: Any) -> Any:
    """Means over judgements are added up in the order in which they came: not their last bits."""
    return round(value, 9) if name.startswith("rewards/") else value


def transcripts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "episodes").glob("*"))}


def bits(x: Any) -> Any:
    import torch

    if isinstance(x, torch.Tensor):
        return str(x.dtype), tuple(x.shape), x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(x, Mapping):
        return {k: bits(v) for k, v in x.items()}
    return [bits(v) for v in x] if isinstance(x, (list, tuple)) else repr(x)


def attempts(folder: Path) -> Counter[str]:
    """How often each attempt of each step stands in the transcripts."""
    found: Counter[str] = Counter()
    for path in sorted((folder / "episodes").glob("*")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            for t in row["trajectories"]:
                found[f"{path.stem} {t['group']} {t['episode']}"] += 1
    return found


def child(folder: Path, model: str, steps: int, kills: int, seed: int, address: str) -> None:
    """The run that is killed, from its last checkpoint on."""
    import torch

    torch.set_num_threads(1)
    run = made(model, folder / "killed", steps, seed)
    run.resume = (folder / "killed").exists()
    ray = placed(run, address=address)
    shares = {"sampler": 5, "environment": 4, "reward": 4, "learner": 4, "bus": 2, "driver": 1}
    killer = Killer(ray, plan(kills, steps, seed, shares), folder / "kills.jsonl")
    run.probes.append(killer)
    killer.start()
    asyncio.run(train(run))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/scale/kills.json")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "MODEL", "ADDRESS"))
    asked = parser.parse_args()
    if asked.child:
        folder, model, address = asked.child
        return child(Path(folder), model, asked.steps, asked.kills, asked.seed, address)
    with tempfile.TemporaryDirectory() as folder:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        found = study(Path(folder), asked.kills, asked.steps, asked.seed)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def study(folder: Path, kills: int, steps: int, seed: int) -> dict[str, Any]:
    """Both runs, and what became of them."""
    import ray
    import torch

    from temper.backends.ray import environment
    from temper.report import revision
    from temper.testing import toy_model

    torch.set_num_threads(1)
    model = toy_model(folder / "model")
    whole = made(model, folder / "whole", steps, seed)
    asyncio.run(train(whole))
    began, starts = time.time(), 0
    with environment():
        head = ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False
        )
        address = head.address_info["address"]
        words = ["--kills", kills, "--steps", steps, "--seed", seed, "--child", folder, model, address]
        while True:
            starts += 1
            ended = subprocess.run([sys.executable, "-m", "studies.kills", *map(str, words)], cwd=ROOT, check=False)
            if ended.returncode == 0:
                break
            if ended.returncode != -signal.SIGKILL:
                raise SystemExit(f"the run ended with {ended.returncode}")
        ray.shutdown()
    log = [json.loads(line) for line in (folder / "kills.jsonl").read_text().splitlines()]
    mine, theirs = attempts(folder / "killed"), attempts(folder / "whole")
    return {
        "kind": "kills", "date": str(date.today()), "revision": revision(), "seed": seed, "steps": steps,
        "command": f"python -m studies.kills --kills {kills} --steps {steps} --seed {seed}",
        "kills": len(log), "by_role": dict(Counter(k["role"] for k in log)), "starts of the driver": starts,
        "seconds": round(time.time() - began, 1), "attempts": len(theirs),
        "lost": len(theirs.keys() - mine.keys()), "twice": sum(n > theirs[k] for k, n in mine.items()),
        "differs": difference(folder / "killed", folder / "whole"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
