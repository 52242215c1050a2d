"""Forecasts against simulations, and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from studies.plan import STORED, compared, errors, table
from temper.backends.base import SamplingParams
from temper.cli import main
from temper.errors import UserError
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.objective import Update
from temper.parts.curricula import Generated
from temper.simulate import Lognormal, Measured, World, simulate
from temper.simulate.plan import Device, Load, error, forecast, world_of
from temper.sync import SYNC
from temper.tasks.task import Task
from tests.asynchrony.parts import Apart
from tests.core.test_invariants import small
from tests.seams import toys


def test_a_forecast_by_hand() -> None:
    """4 answers on 2 slots, 10 s each: 20 s; judged in 2 s a group at a time; trained in 4 s; 1 s for new weights."""
    world = World(samplers=1, slots=2, token=1.0, judge=1.0, train=0.1, transfer=1.0)
    load = Load(groups=2, attempts=2, tokens=10.0, prompt=1.0)
    streamed = forecast(world, load, 0)
    assert streamed.seconds == pytest.approx(20 + 2 + 2 + 1)  # the first group is judged and trained behind the second
    assert streamed.idle == pytest.approx({"samplers": 1 - 20 / 25, "learners": 1 - 4 / 25, "judges": 1 - 4 / 25})
    apart = World(**{**vars(world), "streamed": False})
    assert forecast(apart, load, 0).seconds == pytest.approx(20 + 4 + 4 + 1)
    assert forecast(world, load, 1).seconds == pytest.approx(20.0)  # samplers never wait


WORLDS: list[dict[str, Any]] = [
    {"samplers": 2, "slots": 4, "train": 0.05, "learners": 1},
    {"samplers": 1, "slots": 8, "train": 0.2, "learners": 2, "judge": 2.0, "judges": 2},
]


def test_forecasts_are_close_to_simulations(toy_model: str) -> None:
    """Of two worlds at staleness 0 and 2, with stragglers; answers of 8 tokens."""
    predicted, measured = [], []
    for fields in WORLDS:
        world = World(token=1.0, tail=Lognormal(0.6), **fields)
        for ahead in (0, 2):
            policy = toys.policy(toy_model)
            m = grpo(policy)
            run = small(
                toy_model, policy=policy, curriculum=Generated(lambda k: Task(f"t{k}", "ab"), 4), steps=8, groups=4,
                sampling=SamplingParams(max_tokens=8, allowed=(97, 98, 99)), on_group=[toys.ShareOf(), *m.on_group],
                updates=[Update(policy, m.terms)], ahead=ahead, sync=SYNC["resume"], transcripts_every=0,
                streamed=True,
            )  # fmt: skip
            seconds = simulate(run, world).seconds[3:]
            measured.append(sum(seconds) / len(seconds))
            seeds = [forecast(world, Load(4, 4, 8.0, 1.0), ahead, seed=s).seconds for s in range(8)]
            predicted.append(sum(seeds) / len(seeds))
    print([f"{p:.1f}/{m:.1f}" for p, m in zip(predicted, measured)])
    assert error(predicted, measured) < 0.12


def test_forecasts_are_close_to_real_clocks(toy_model: str) -> None:
    """Samplers that really wait and updates that really take a while, in a thread, at staleness 0 and 2."""
    world = World(samplers=2, slots=3, token=0.05, tail=Lognormal(0.6), train=0.3 / 96)

    class Real(Apart):
        def open(self, modules: Any = ()) -> None:
            super().open(modules)
            sampler, learner = self.sampler, self.learner
            sampler.slots = world.slots  # type: ignore[attr-defined]
            update = learner.update

            def slowly(*args: Any) -> Any:
                time.sleep(0.3)
                return update(*args)

            learner.update = slowly  # type: ignore[method-assign]

    predicted, measured = [], []
    for ahead in (0, 2):
        policy = Real("policy", toy_model)
        policy.replicas = world.samplers
        policy.pause = lambda number, ids, params: 8 * world.token * world.tail(params.seed)
        run = small(
            toy_model, policy=policy, curriculum=Generated(lambda k: Task(f"t{k}", "ab"), 4), steps=6, groups=3,
            sampling=SamplingParams(max_tokens=8, allowed=(97, 98, 99)), ahead=ahead, sync=SYNC["delayed"],
            transcripts_every=0,
        )  # fmt: skip
        asyncio.run(train(run))
        seconds = [r["timing_s/step"] for r in run.reporter.history if r["step"] > 2]
        measured.append(sum(seconds) / len(seconds))
        apart = World(**{**vars(world), "streamed": False})
        predicted += [sum(forecast(apart, Load(3, 4, 8.0, 1.0), ahead, seed=s).seconds for s in range(8)) / 8]
    print("forecast/measured", [f"{p:.2f}/{m:.2f}" for p, m in zip(predicted, measured)])
    assert error(predicted, measured) < 0.4 and measured[1] < measured[0]


def test_sizes_make_a_world() -> None:
    """7 B in bfloat16: 14 GB read at 3.3 TB/s are 4.2 ms a token; 42 GFLOPs a trained token at 40 % of 990 TFLOP/s."""
    world = world_of(7e9, 4, 8, Device(), slots=1)
    assert world.token == pytest.approx(14e9 / 3.3e12 + 14e9 / 396e12) and world.train == pytest.approx(42e9 / 396e12)
    assert world.transfer == pytest.approx(14e9 / 50e9)
    half = world_of(7e9, 4, 8, Device(), slots=1, group=2)
    assert half.token == pytest.approx(world.token / 2)
    with pytest.raises(UserError, match="a model has some parameters, got 0"):
        world_of(0, 1, 1, Device())
    with pytest.raises(UserError, match="a step has at least one group"):
        Load(groups=0)


def test_forecasts_against_stored_measurements() -> None:
    """studies/plan.py: what it stored is what forecasts say today, the docs say the same, and it stays that close."""
    stored = json.loads(STORED.read_text())
    found = compared(stored)
    for name, row in stored["compared"].items():
        assert found[name] == pytest.approx(row)
    assert errors(found) == pytest.approx(stored["errors"])
    assert stored["errors"]["run"] < 0.25 and stored["errors"]["sizes"] < 0.5
    said = (STORED.parents[1] / "performance.md").read_text()
    assert all(line in said for line in table(found))
    assert all(f"{100 * e:.0f} %" in said for e in stored["errors"].values())


def test_a_run_directory_gives_latencies_and_a_world(toy_model: str, tmp_path: Path) -> None:
    """Of a run whose answers really take a while: the world that it was in, and durations spread as they were."""
    policy = Apart("policy", toy_model)
    policy.pause = lambda number, ids, params: 0.4 if params.seed % 4 == 0 else 0.1
    run = small(
        toy_model, policy=policy, curriculum=Generated(lambda k: Task(f"t{k}", "ab"), 6), steps=4,
        groups=4, sampling=SamplingParams(max_tokens=8, allowed=(97, 98, 99)), transcripts_every=0,
    )  # fmt: skip
    run.out = tmp_path
    asyncio.run(train(run))
    found = Measured.of(tmp_path)
    assert (found.groups, found.attempts, found.load.tokens) == (4, 6, 8.0) and len(found.rows) == 3
    values = sorted(found.latencies.values)
    assert len(values) == 72 and 0.08 < values[0] < 0.3 and values[-1] > 0.35
    assert min(abs(found.latencies(7) - v / (sum(values) / 72)) for v in values) < 1e-9
    world = found.world()
    assert world.slots == 24 and world.token == pytest.approx(sum(values) / 72 / 8)
    assert error([forecast(world, found.load, 0).seconds], [found.seconds]) < 0.4

    plain, like = ["plan", "--samplers", "1", "--learners", "1"], ["--latencies", str(tmp_path)]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main([*plain, *like]) == main(plain) == 0
    first, second = told.getvalue().splitlines()[1], told.getvalue().splitlines()[6]
    assert first != second


def test_a_folder_without_durations_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        Measured.of(tmp_path)
    (tmp_path / "run.json").write_text('{"units": {"groups per step": 2, "attempts per group": 2}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(UserError, match="has no perf/attempt_s behind the first step"):
        Measured.of(tmp_path)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--samplers", "4", "--learners", "4", "--slots", "32", "--groups", "32"]
    assert main(["plan", "--parameters", "7", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[1].split()[0] == "0" and lines[1].split()[2] == "1.00×"
    speeds = [float(line.split()[2][:-1]) for line in lines[1:]]
    assert speeds == sorted(speeds) and speeds[-1] > 1.2
