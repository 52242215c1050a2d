"""SOP: the mixing formula, whose steps are learned, one version an episode, the storage, and actors as processes."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.errors import UserError
from temper.loop import train
from temper.methods.rollouts.sop import decision, sop
from temper.models import load
from temper.policy import Policy
from temper.recipes import sop as recipe
from temper.robots.actor import GRIDS, Actor, succeeds
from temper.robots.fleet import Fleet
from temper.robots.grid import Grid, distance
from temper.robots.sources import OFFLINE, ONLINE, TwoSources, share
from temper.robots.storage import Episode, Step, Storage
from temper.tasks.task import Task
from tests.core.test_invariants import go

NAN = math.nan


def steps(*moves: str, by: str = "expert") -> list[Step]:
    return [Step([{"role": "user", "content": f"q{n}"}], m, by) for n, m in enumerate(moves)]


class Silent:
    """A fleet whose episodes a test gives."""

    def __init__(self, *episodes: Episode):
        self.left = list(episodes)

    def new(self) -> list[Episode]:
        out, self.left = self.left, []
        return out


def played(task: str, *given: Step, number: int = 0) -> Episode:
    return Episode("a", number, task, 0, False, given)


# how sources are mixed ----------------------------------------


@pytest.mark.parametrize(
    ("online", "offline", "alpha", "omega"),
    [
        (0.5, 1.0, 2.0, 0.5),  # e^1 / (e^1 + e^1)
        (1.0, 1.0, 2.0, 1 / (1 + math.exp(-1))),  # 0.731
        (0.0, 1.0, 2.0, 1 / (1 + math.e)),  # 0.269
        (2.0, 0.1, 2.0, 0.8),  # e^4 against e^0.1, clipped
        (0.0, 5.0, 2.0, 0.2),
        (1000.0, 0.0, 2.0, 0.8), (0.0, 1000.0, 2.0, 0.2),  # no overflow
        (NAN, 1.0, 2.0, 0.2), (1.0, NAN, 2.0, 0.2),  # a source without losses
    ],
)  # fmt: skip
def test_the_share_of_online_decisions(online: float, offline: float, alpha: float, omega: float) -> None:
    assert share(online, offline, alpha, 0.2, 0.8) == pytest.approx(omega)


def test_offline_only_until_something_came() -> None:
    fleet = Silent()
    sources = TwoSources({"reach": steps("u", "d")}, fleet)
    assert {r.task.source for r in sources.next(50)} == {"reach/offline"}
    fleet.left = [played("reach", *steps("l", by="policy"), *steps("r"), *steps("l", by="policy"))]
    drawn = [r.task for r in sources.next(400)]
    online = [t for t in drawn if t.source == "reach/online"]
    assert {t.answer for t in online} == {"r"}  # the expert's step, and none of the policy's own
    assert len(online) / 400 == pytest.approx(0.2, abs=0.05)  # no losses yet: the floor


def test_tasks_are_uniform_and_each_has_its_own_share() -> None:
    fleet = Silent(played("a", *steps("u")), played("b", *steps("d"), number=1))
    sources = TwoSources({"a": steps("l"), "b": steps("r")}, fleet, window=3)
    sources.heard({f"a/{ONLINE}": 2.0, f"a/{OFFLINE}": 0.1, f"b/{ONLINE}": 0.0, f"b/{OFFLINE}": 3.0})
    assert (sources.omega("a"), sources.omega("b")) == (0.8, 0.2)
    drawn = [r.task.source for r in sources.next(1000)]
    assert sum(s.startswith("a/") for s in drawn) / 1000 == pytest.approx(0.5, abs=0.05)
    assert drawn.count("a/online") / sum(s.startswith("a/") for s in drawn) == pytest.approx(0.8, abs=0.06)
    assert TwoSources({"a": steps("l")}, fleet, fixed=0.5).omega("a") == 0.5


def test_losses_are_means_over_a_window_and_grow_stale() -> None:
    sources = TwoSources({"a": steps("l")}, Silent(), window=3)
    for x in (9.0, 1.0, 2.0, 3.0):
        sources.heard({f"a/{OFFLINE}": x})
    assert sources.mean(f"a/{OFFLINE}") == 2.0 and math.isnan(sources.mean(f"a/{ONLINE}"))
    sources.heard({f"a/{ONLINE}": 5.0})
    assert sources.mean(f"a/{OFFLINE}") == 2.5 and sources.mean(f"a/{ONLINE}") == 5.0
    for _ in range(3):
        sources.heard({f"a/{OFFLINE}": 0.0})
    assert math.isnan(sources.mean(f"a/{ONLINE}")) and sources.omega("a") == 0.2  # nothing fresh: forgotten


def test_a_resumed_curriculum_draws_the_same(tmp_path: Path) -> None:
    fleet = Silent(played("a", *steps("u", "r")))
    sources = TwoSources({"a": steps("l", "d")}, fleet)
    sources.next(7)
    sources.heard({f"a/{ONLINE}": 1.0, f"a/{OFFLINE}": 1.0})
    again = TwoSources({"a": steps("l", "d")}, Silent())
    again.load_state_dict(json.loads(json.dumps(sources.state_dict())))
    assert [r.task for r in again.next(30)] == [r.task for r in sources.next(30)]


# what an actor does ----------------------------------------


def test_the_world_and_its_expert() -> None:
    for grid in (Grid(), Grid(mirrored=True)):
        for at, goal in grid.starts():
            n = 0
            while at != goal:
                at, n = grid.after(at, grid.expert(at, goal)), n + 1
            assert n <= 6
    assert Grid().after((0, 0), "l") == (0, 0) and Grid(mirrored=True).after((0, 0), "l") == (1, 0)
    assert len(Grid().starts()) == 240


class Wrong(Actor):
    """A policy that always moves away, or does as the expert; `plan` says which."""

    plan = "w"

    async def choose(self, prompt: Any, n: int, temperature: float = 1.0) -> str:
        words = prompt[0]["content"].replace(",", "").replace(".", "").split()
        at, goal = (int(words[2]), int(words[3])), (int(words[5]), int(words[6]))
        best = Grid().expert(at, goal)
        away = max("udlr", key=lambda m: distance(Grid().after(at, m), goal))
        return best if self.plan == "right" else away


@pytest.fixture
def tiny() -> Iterator[tuple[Any, Any]]:
    yield load.load_model("temper-tiny-random", device="cpu"), load.load_tokenizer("temper-tiny")


def test_the_expert_takes_over_and_only_then(tmp_path: Path, tiny: Any) -> None:
    actor = Wrong("w", Storage(tmp_path), *tiny, [Grid()], patience=2, takeover=3)
    long = next(e for e in (asyncio.run(actor.episode()) for _ in range(20)) if len(e.steps) > 6)
    who = "".join(s.by[0] for s in long.steps)
    assert who.startswith("ppeeep") and not long.success
    for s in long.steps:
        assert s.by in ("policy", "expert")
    actor.plan = "right"
    good = asyncio.run(actor.episode())
    assert good.success and {s.by for s in good.steps} == {"policy"}
    assert asyncio.run(succeeds(actor, Grid(), Grid().starts()[:20])) == 1.0


def test_weights_change_between_episodes_only(tmp_path: Path, tiny: Any) -> None:
    storage, (module, tokenizer) = Storage(tmp_path), tiny
    actor = Actor("a", storage, module, tokenizer, [Grid()])
    first = {n: p.detach().clone() for n, p in module.named_parameters()}
    storage.publish(first, 3)
    inner = actor.choose

    async def choose(prompt: Any, n: int, temperature: float = 1.0) -> str:
        storage.publish({k: v + 0.01 for k, v in first.items()}, 4)  # in the middle of the episode
        assert actor.version == 3 and all(torch.equal(p, first[k]) for k, p in module.named_parameters())
        return await inner(prompt, n, temperature)

    actor.choose = choose  # type: ignore[method-assign]
    assert asyncio.run(actor.episode()).version == 3
    actor.choose = inner  # type: ignore[method-assign]
    assert asyncio.run(actor.episode()).version == 4
    assert torch.allclose(next(iter(module.parameters())), next(iter(first.values())) + 0.01)


# the storage ----------------------------------------


def test_episodes_come_once_and_whole(tmp_path: Path) -> None:
    storage, other = Storage(tmp_path), Storage(tmp_path)
    one = played("reach", *steps("u", "d"))
    other.put(one)
    (tmp_path / "episodes" / "a-00000007.part").write_text("{")  # somebody is writing
    assert storage.new() == [one] and storage.new() == []
    asked = [{"role": "user", "content": "q"}]
    changed: list[dict[str, Any]] = [
        {"steps": [{"prompt": 3, "move": "u", "by": "expert"}]}, {"steps": [], "version": "1"},
        {"steps": [{"prompt": asked, "move": "u", "by": "me"}]},
        {"steps": [{"prompt": asked, "move": 1, "by": "expert"}]},
        {"steps": [], "more": 1},
    ]  # fmt: skip
    rows = [json.dumps({**one.__dict__, **c}) for c in changed]
    for n, text in enumerate(("", "[]", "{}", '{"steps": 3}', "[" * 99999, " " * (2**20 + 1), *rows)):
        (tmp_path / "episodes" / f"b-{n:08d}.json").write_text(text)
    (tmp_path / "episodes" / "..-1.json").write_text("{}")
    assert storage.new() == [] and storage.malformed == 11


def test_weights_are_newest_whole_and_few(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert storage.latest() is None
    for v in range(6):
        storage.publish({"w": torch.full((2,), float(v))}, v)
    version, weights = storage.latest() or (0, {})
    assert version == 5 and weights["w"].tolist() == [5, 5] and storage.latest(5) is None
    assert len(list((tmp_path / "weights").iterdir())) == 3
    (tmp_path / "weights" / "00000009.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"00000009.safetensors holds no weights"):
        storage.latest()


# in a run ----------------------------------------


def test_a_decision_is_one_token_behind_its_prompt() -> None:
    policy = Policy(model="temper-tiny")
    policy.open()
    try:
        spans = decision(Task("t", "q", "u"), policy.tokenizer)
        assert spans[1][0] == "solver" and len(spans[1][1]) == 1
        assert [
            s.__class__.__name__ for s in sop(policy, sources=TwoSources({"a": steps("u")}, Silent())).on_batch
        ] == ["Losses"]
    finally:
        policy.close()


def test_losses_are_told_by_source_without_weights(toy_model: str) -> None:
    run = recipe.sop(model=toy_model, stepped=1.0, actors=2, steps=4, groups=8, eval_every=2, tasks=("reach", "mirror"))
    sources = run.curriculum
    history = go(run)
    assert isinstance(sources, TwoSources) and sources.step == 4
    assert all(0 < x < 20 for rows in sources.losses.values() for _, x in rows)
    assert {k.split("/")[1] for k in sources.losses} == {ONLINE, OFFLINE}
    told = [r for r in history if r["step"]]
    assert all(0.2 <= r["sop/omega/reach"] <= 0.8 for r in told) and told[-1]["sop/online/reach"] > 0


def test_actors_as_processes_and_one_is_killed(tmp_path: Path) -> None:
    """Two actors; one is killed: the run goes on with the other's episodes, each under one published version."""
    run = recipe.sop(
        model="temper-tiny-random",
        actors=2,
        stepped=0.0,
        pause=0.02,
        steps=2000,
        groups=4,
        eval_every=10**6,
        folder=tmp_path / "f",
    )
    run.out = tmp_path / "out"
    (fleet,) = run.probes
    assert isinstance(fleet, Fleet)
    storage = Storage(tmp_path / "f")
    heard: list[Episode] = []

    class Enough(Exception):
        pass

    class Watch:
        killed = 0.0

        async def __call__(self, run: Any, step: int) -> dict[str, float]:
            heard.extend(storage.new())
            if not self.killed and {e.actor for e in heard} == {"actor0", "actor1"}:
                os.kill(fleet._processes[0].pid, signal.SIGKILL)
                self.killed = time.monotonic()
                self.had = len([e for e in heard if e.actor == "actor1"])
            if self.killed and len([e for e in heard if e.actor == "actor1"]) > self.had + 3:
                raise Enough
            return {}

    run.probes.append(Watch())
    with pytest.raises(Enough):
        asyncio.run(asyncio.wait_for(train(run), 120))
    assert fleet._processes == [] and all(0 <= e.version < 2000 for e in heard)
    assert len({e.version for e in heard}) > 1 and [e.number for e in heard if e.actor == "actor1"][:3] == [0, 1, 2]


def test_a_fleet_without_actors_is_an_error() -> None:
    with pytest.raises(UserError, match="a fleet has at least one actor, got 0"):
        Fleet([GRIDS["reach"]], 0)
    fleet = Fleet([GRIDS["reach"]], 1)
    fleet._processes = [subprocess.Popen(["false"])]
    fleet._processes[0].wait(10)
    with pytest.raises(UserError, match="all 1 actors have ended"):
        fleet._alive()
