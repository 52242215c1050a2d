"""SOP: the mixing formula, whose steps are learned, one version an episode, the storage, and actors as processes."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
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
    """Two actors; one is killed: the run goes on with the other's episodes, and another plays in its place."""
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
                fleet._processes[0].wait()
                heard.extend(storage.new())
                self.killed = time.monotonic()
                self.had = len(heard)
            if self.killed and {e.actor for e in heard[self.had :]} == {"actor0", "actor1"}:
                raise Enough
            return {}

    run.probes.append(Watch())
    with pytest.raises(Enough):
        asyncio.run(asyncio.wait_for(train(run), 120))
    assert fleet._processes == [] and all(0 <= e.version < 2000 for e in heard)
    assert len({e.version for e in heard}) > 1 and fleet.restarts == 1
    for actor in ("actor0", "actor1"):
        numbers = [e.number for e in heard if e.actor == actor]
        assert numbers == list(range(len(numbers)))


def test_an_actor_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    Storage(tmp_path).publish({}, 0)
    line = [sys.executable, "-m", "temper.robots.actor", "--storage", str(tmp_path), "--model", "temper-tiny-random"]
    line += ["--name", "a", "--tasks", "reach", "--seed", "0", "--parent"]
    start = f"import os, subprocess; print(subprocess.Popen({line} + [str(os.getpid())]).pid, flush=True); input()"
    driver = subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    actor = int(driver.stdout.readline())
    try:
        assert waited(lambda: Storage(tmp_path).following("a") > 1)
        driver.kill()
        driver.wait(10)
        assert waited(lambda: not playing(actor))
    finally:
        driver.kill()
        if playing(actor):
            os.kill(actor, signal.SIGKILL)


def playing(pid: int) -> bool:
    """Whether the process is there, and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def waited(what: Any, seconds: float = 60.0) -> bool:
    ends = time.monotonic() + seconds
    while not what() and time.monotonic() < ends:
        time.sleep(0.05)
    return bool(what())


class Learner:
    """As much of a run as a fleet looks at between two looks of its own."""

    def __init__(self) -> None:
        self.steps, learner = 1000, SimpleNamespace(weights=lambda: {"w": torch.ones(1)})
        self.roles = {"solver": SimpleNamespace(learner=learner)}


class Deserted(Fleet):
    """Without processes."""

    def _start(self, name: str) -> Any:
        return None

    def _alive(self) -> None:
        pass


def test_a_resumed_run_reads_what_its_checkpoint_has_not(tmp_path: Path) -> None:
    """Killed in step 57, resumed at 50: weights of 50 are served, and only episodes since then are new."""
    actor, run = Storage(tmp_path), Learner()
    first, again, other = (Deserted([GRIDS["reach"]], 1, folder=tmp_path, every=1000) for _ in range(3))
    for step in (49, 50):
        asyncio.run(first(run, step))  # type: ignore[arg-type]
    actor.put(played("reach", *steps("u")))
    assert len(first.new()) == 1
    saved = first.state_dict()
    for step in (55, 56, 57):
        asyncio.run(first(run, step))  # type: ignore[arg-type]
    actor.put(played("reach", *steps("d"), number=1))
    assert len(first.new()) == 1 and actor.latest()[0] == 57  # type: ignore[index]

    again.load_state_dict(saved)
    asyncio.run(again(run, 50))  # type: ignore[arg-type]
    assert actor.latest(57)[0] == 50  # type: ignore[index]
    assert [e.number for e in again.new()] == [1] and again.new() == []
    asyncio.run(again(run, 51))  # type: ignore[arg-type]
    assert [p.name[:8] for p in sorted((tmp_path / "weights").iterdir())] == ["00000050", "00000051"]
    asyncio.run(other(run, 1))  # type: ignore[arg-type]
    assert other.new() == []  # another run, in a folder that was used
    assert actor.following("a") == 2 and actor.following("b") == 0


def test_an_actor_that_sends_nothing_is_left_out(tmp_path: Path, caplog: Any) -> None:
    """Three starts; the others play on; where there is no other, the run ends."""
    fleet = Fleet([GRIDS["reach"]], 2)
    fleet.storage = Storage(tmp_path)

    def start(name: str) -> Any:
        fleet._starts[name] = fleet._starts.get(name, 0) + 1
        made = subprocess.Popen(["false"] if name == "actor0" else ["sleep", "60"])
        if name == "actor0":
            made.wait(10)
        return made

    fleet._start = start  # type: ignore[method-assign]
    fleet._processes = [start("actor0"), start("actor1")]
    for _ in range(5):
        fleet._alive()
    assert fleet.restarts == 2 and fleet._processes[1].poll() is None
    assert [r.getMessage() for r in caplog.records] == [
        "actor0 ended with 1: started again"] * 2 + ["actor0 sent nothing in 3 starts, and ended with 1: left out"
    ]  # fmt: skip
    fleet._starts["actor1"] = 4
    fleet._processes[1].kill()
    fleet._processes[1].wait(10)
    with pytest.raises(UserError, match="all 2 actors have ended"):
        fleet._alive()


def test_a_fleet_without_actors_is_an_error() -> None:
    with pytest.raises(UserError, match="a fleet has at least one actor, got 0"):
        Fleet([GRIDS["reach"]], 0)
