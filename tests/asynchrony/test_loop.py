"""The loop with samplers that go on while a step is trained."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.bridge import to_episodes, token_versions
from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, LOGP, REQUEST, REWARD, TASK, TOKEN, TRAJECTORY, VERSION, VERSIONS
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.loop import train
from temper.parts.curricula import Generated
from temper.run import Run
from temper.simulate import Lognormal, World, simulate
from temper.simulate.clock import VirtualLoop
from temper.sync import SYNC
from temper.tasks.task import Task
from tests.asynchrony.parts import Ages, Apart, Served, Twice, apart, go
from tests.core.busy import plain
from tests.core.test_invariants import small, stopping
from tests.seams import toys


def weights(folder: Path) -> Any:
    return plain(torch.load(folder / "checkpoints" / "latest" / "training.pt", weights_only=True)["weights"])


@pytest.mark.parametrize("sync", [*SYNC, None])
@pytest.mark.parametrize("replicas", [1, 2])
def test_without_staleness_it_is_the_plain_loop_to_the_bit(
    toy_model: str, tmp_path: Path, sync: Any, replicas: int
) -> None:
    go(small(toy_model, steps=4), tmp_path / "plain")
    run, ages = apart(toy_model, replicas, sync=SYNC[sync] if sync else None)
    go(run, tmp_path / "apart")
    assert weights(tmp_path / "apart") == weights(tmp_path / "plain")
    assert [max(g) for g in ages.gaps] == [0, 0, 0, 0]


@pytest.mark.parametrize("ahead", [0, 2])
def test_who_goes_ahead_does_not_wait_for_busy_samplers(toy_model: str, ahead: int) -> None:
    """Where nothing else is said: at 0 as before; else also where samplers cannot be cut, and as fast as can be."""
    world, total = World(samplers=2, slots=3, token=1.0, train=0.2, tail=Lognormal(1.0)), dict[str, float]()
    for name, sync in (("default", None), *SYNC.items()):
        run = small(toy_model, ahead=ahead, steps=8, sync=sync)
        total[name] = simulate(run, world).total
        if name == "default":
            assert run.syncing == SYNC["delayed" if ahead else "blocking"] and "at_once" in run.describe()["sync"]
    assert total["default"] == total["delayed" if ahead else "blocking"]
    assert not ahead or total["default"] < 0.95 * total["blocking"]


@pytest.mark.parametrize("sync", [*SYNC, None])
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_no_row_is_older_than_that(toy_model: str, sync: Any, ahead: int) -> None:
    """With one replica ten times as slow as the other, and a straggler in every group."""

    def pause(replica: int, ids: Any, params: SamplingParams) -> float:
        return (0.02 if params.seed % 3 == 0 else 0.002) * (1 + 4 * replica)

    run, ages = apart(toy_model, 2, pause, sync=SYNC[sync] if sync else None, ahead=ahead, steps=8)
    go(run)
    gaps = [g for gap in ages.gaps for g in gap]
    assert min(gaps) >= 0 and max(gaps) <= ahead and len(ages.gaps) == 8
    assert max(gaps) >= 1  # it did go on meanwhile


def slow(replica: int, ids: Any, params: SamplingParams) -> float:
    return 0.5 + params.seed % 7


def virtually(run: Any, folder: Path | None = None) -> None:
    run.out = folder
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(train(run))


class Once(SingleTurn):
    """Notes every play by task; each task is asked for once."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["plays"] = Counter[str]()

    async def play(self, task: Any, roles: Any) -> Any:
        episode = await super().play(task, roles)
        self.plays[task.id] += 1  # type: ignore[attr-defined]
        return episode


def endless() -> Generated:
    return Generated(lambda k: Task(f"t{k}", f"say {'ab' * (1 + k % 3)}"), attempts=3)


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_checkpoint_in_flight_loses_nothing_and_trains_nothing_twice(
    toy_model: str, tmp_path: Path, ahead: int
) -> None:
    """Stopped in the middle of other steps' rollouts: what had landed is not played again, the rest is."""
    fields: dict[str, Any] = {"ahead": ahead, "steps": 7, "sync": SYNC["delayed"], "save_every": 1}
    envs, trained = [Once(), Once()], list[Any]()
    with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Run, "report", stopping(3))
        run, ages = apart(toy_model, 2, slow, env=envs[0], curriculum=endless(), **fields)
        virtually(run, tmp_path / "run")
    trained += ages.batches
    saved = torch.load(tmp_path / "run" / "checkpoints" / "latest" / "state.pt", weights_only=True)
    groups = saved["bus"]["groups"]
    here = {k.split()[1] for g in groups.values() for k in g["had"] if k.startswith("episode")}
    open_ = {row for g in groups.values() for row in g["rows"]}
    assert saved["step"] == 3 and len(groups) == 2 * ahead and here < open_
    run, ages = apart(toy_model, 2, slow, env=envs[1], curriculum=endless(), resume=True, **fields)
    virtually(run, tmp_path / "run")
    trained += ages.batches
    assert [task.id for b in trained for task in b[TASK]] == [f"t{k}" for k in range(14)]  # each once, in order
    assert max(g for gap in ages.gaps for g in gap) <= ahead
    landed = Counter(row.split(":")[1].split("/")[0] for row in here)
    again = {f"t{k}": 3 - landed[f"t{k}"] for k in range(6, 6 + 2 * ahead)}
    assert {t: n for t, n in envs[1].plays.items() if t in again} == {t: n for t, n in again.items() if n}  # type: ignore[attr-defined]


def test_how_far_it_goes_ahead_may_be_said_later(toy_model: str) -> None:
    """The bus has room for what the run is to hold now."""
    run, ages = apart(toy_model, 1, slow, steps=8, sync=SYNC["delayed"])
    run.ahead = 3
    virtually(run)
    assert 1 <= max(g for gap in ages.gaps for g in gap) <= 3


def test_a_group_waits_for_its_last_row(toy_model: str) -> None:
    """Rows of a group may be of different versions; its mean is over all of them."""
    run, ages = apart(toy_model, 2, slow, ahead=2, steps=8, sync=SYNC["delayed"])
    virtually(run)
    mixed = 0
    for b in ages.batches:
        per_group = b.by(REQUEST, GROUP)
        assert len(per_group.keys) == 2 and b.count(TRAJECTORY, GROUP).tolist() == [3.0, 3.0]
        centre = b.spread(b.mean(b[REWARD], TRAJECTORY, GROUP), GROUP, TRAJECTORY)
        torch.testing.assert_close(b[ADVANTAGE], b.spread(b[REWARD] - centre, TRAJECTORY, TOKEN))
        versions = token_versions(b)
        owner = b.structure.group[b.structure.member[1]]
        mixed += any(len(set(versions[b.structure.token_turn == u].tolist())) for u in owner.tolist())
    assert mixed


def test_cut_rows_keep_their_versions_and_behaviour_log_probs(toy_model: str) -> None:
    """Abort and resume at every update: tokens of several versions in one turn, each with its sampler's log-prob."""
    policy = toys.policy(toy_model)
    ages = Ages(policy)
    fields: dict[str, Any] = {"ahead": 2, "steps": 8, "sync": SYNC["resume"], "sampling": SamplingParams(max_tokens=24)}
    run = small(toy_model, policy=policy, on_batch=[ages], **fields)
    world = World(samplers=2, slots=3, token=1.0, train=0.05, tail=Lognormal(1.0))
    outcome = simulate(run, world)
    spans = [v for b in ages.batches if VERSIONS in b for v in b[VERSIONS] if v is not None]
    assert spans and outcome.counts["resumed"] >= len(spans)
    assert all(list(v) == sorted(v) and v[-1] - v[0] <= 2 for v in spans)
    assert max(g for gap in ages.gaps for g in gap) <= 2
    for b in ages.batches:
        assert not b[LOGP.of("behaviour")].isnan().any() and VERSION in b
        again = Batch.of(to_episodes(b))
        assert token_versions(again).tolist() == token_versions(b).tolist()
    first = {v for b in ages.batches[3:] for v in b[VERSION][b.structure.sampled].tolist()}
    assert len(first) > 2


@pytest.mark.parametrize("env", [Twice, Served])
@pytest.mark.parametrize("failures", [(), tuple((15.0 * n + 25, n, 1.0) for n in range(6))], ids=["", "falling"])
def test_an_episode_of_two_answers_has_one_version(toy_model: str, env: Any, failures: Any) -> None:
    """Also where its replica falls between them: then it is played again, from its beginning."""
    versions = {}
    for sync in ("episodes", "delayed"):
        policy = toys.policy(toy_model)
        ages = Ages(policy)
        run = small(toy_model, policy=policy, env=env(), on_batch=[ages], ahead=2, steps=8, sync=SYNC[sync])
        world = World(samplers=2, slots=3, token=1.0, train=0.05, tail=Lognormal(1.0), failures=failures)
        outcome = simulate(run, world)
        versions[sync] = [{int(b[VERSION][u]) for u in path if b.structure.sampled[u]}
                          for b in ages.batches for path in b.structure.paths]  # fmt: skip
        assert len(versions[sync]) == 48 and max(g for gap in ages.gaps for g in gap) <= 2
        assert outcome.counts["lost"] == len(failures)
        assert "dropped/stale" not in {name for r in outcome.history for name in r}
        assert (outcome.counts["torn"] > 0) == (bool(failures) and sync == "episodes")
    assert {len(v) for v in versions["episodes"]} == {1} and len(set.union(*versions["episodes"])) > 3
    assert max(len(v) for v in versions["delayed"]) == 2


def test_rows_that_are_too_old_are_asked_for_again(toy_model: str) -> None:
    """A sampler that says that it serves what it does not: its rows are never trained on, and counted."""

    class Liar(Apart):
        def open(self, modules: Any = ()) -> None:
            super().open(modules)
            sampler: Any = self.sampler
            inner, asked = sampler.replicas[0].sampler, [0]
            real = inner.sample

            async def sample(*args: Any) -> Any:
                asked[0] += 1
                said = await real(*args)
                return replace(said, version=said.version - 3) if asked[0] % 4 == 0 and said.version > 2 else said

            inner.sample = sample

    policy = Liar("policy", toy_model, optimizer=toys.policy(toy_model).optimizer)
    ages = Ages(policy)
    run = small(toy_model, policy=policy, on_batch=[ages], ahead=1, steps=6, sync=SYNC["delayed"])
    counted: list[float] = []
    keep = run.count

    def count(what: str, n: float) -> None:
        counted.append(n) if what == "dropped/stale" else None
        keep(what, n)

    run.count = count  # type: ignore[method-assign]
    virtually(run)
    assert sum(counted) > 3 and max(g for gap in ages.gaps for g in gap) <= 1
    assert all(b.count(TRAJECTORY, GROUP).tolist() == [3.0, 3.0] for b in ages.batches)


def test_an_evaluation_meets_no_training_episode_and_the_newest_weights(toy_model: str) -> None:
    seen: list[tuple[int, int]] = []

    class Looking(Evaluation):
        async def play(self, run: Any) -> Any:
            assert not run.floor._busy["episodes"] and not run.floor._busy["stages"]
            answers = await super().play(run)
            seen.append((run.roles["solver"].version, min(r.version for r in run.roles["solver"].sampler.replicas)))
            return answers

    probes = [Looking(toys.TASKS[:2], 2, every=1)]
    run, ages = apart(toy_model, 1, slow, ahead=2, steps=5, sync=SYNC["delayed"], probes=probes)
    virtually(run)
    assert len(seen) == 6 and all(a == b for a, b in seen) and len(ages.batches) == 5


@pytest.mark.parametrize("plays", [True, False])
def test_only_a_probe_that_plays_holds_up_what_is_played_for_training(toy_model: str, plays: bool) -> None:
    """One without `due` may play at any step; one that says that it never does meets episodes in flight."""
    busy: list[int] = []

    class Looking:
        async def __call__(self, run: Any, step: int) -> dict[str, float]:
            busy.append(run.floor._busy["episodes"])
            return {}

    class Still(Looking):
        plays = False

    run, ages = apart(toy_model, 1, slow, ahead=2, steps=5, sync=SYNC["delayed"])
    run.probes = [Looking() if plays else Still()]
    virtually(run)
    assert len(busy) == 6 and len(ages.batches) == 5 and (max(busy) > 0) != plays


def test_a_run_on_ray_is_not_drained_at_every_step(toy_model: str) -> None:
    """Its placement, and wishes for more samplers, are looked at after every step: that plays nothing."""
    pytest.importorskip("ray")
    from temper.backends.ray import Ray

    run = small(toy_model, steps=9, ahead=2, probes=[Evaluation(toys.TASKS[:2], 2, every=4)])
    Ray(samplers=2).place(run)
    assert len(run.probes) == 3 and [step for step in range(10) if run._probed(step)] == [0, 4, 8, 9]


def test_a_run_that_ends_cancels_what_is_in_flight(toy_model: str) -> None:
    async def go() -> None:
        run, _ = apart(toy_model, 1, slow, ahead=3, steps=9, sync=SYNC["delayed"])
        with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(Run, "report", stopping(1))
            await train(run)
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and "_drive" not in repr(t)]
        assert not left, left

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(go())


def test_a_sampler_that_cannot_cut_refuses_to_resume(toy_model: str) -> None:
    class Whole(Apart):
        def open(self, modules: Any = ()) -> None:
            super().open(modules)
            self.serve(NoAbort(self.sampler.replicas[0].sampler))  # type: ignore[attr-defined]

    class NoAbort:
        apart = True

        def __init__(self, inner: Any):
            self.sample, self.load = inner.sample, inner.load

    policy = Whole("policy", toy_model)
    with pytest.raises(UserError, match="the sampler of 'policy' cannot cut its samples: choose a sync"):
        virtually(small(toy_model, policy=policy, sync=SYNC["resume"]))
