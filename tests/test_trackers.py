"""Metrics reach the real packages' own files; an unknown tracker is one sentence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.loop import train
from temper.objective import Update
from temper.run import Run
from temper.trackers import numbers
from tests.seams import toys


def small_run(model: str, out: Path, trackers: tuple[str, ...]) -> Run:
    policy = toys.policy(model)
    return Run(
        env=SingleTurn(),
        curriculum=toys.curriculum(2),
        roles={"solver": policy},
        on_group=[toys.ShareOf(), toys.CENTRED],
        updates=[Update(policy, [toys.POLICY_TERM])],
        steps=2,
        groups=2,
        sampling=toys.SHORT,
        out=out,
        trackers=trackers,
    )


def test_tensorboard_files_hold_every_number(toy_model: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = small_run(toy_model, tmp_path / "run", ("tensorboard",))
    asyncio.run(train(run))
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == set(numbers(run.reporter.history[0]))
    rewards = [(e.step, e.value) for e in found.Scalars("reward")]
    assert rewards == [(r["step"], pytest.approx(r["reward"])) for r in run.reporter.history]


def test_wandb_writes_offline(toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the wandb extra is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    asyncio.run(train(small_run(toy_model, tmp_path / "run", ("wandb",))))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_unknown_tracker_is_refused(toy_model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown tracker 'tensorbored'; did you mean tensorboard"):
        asyncio.run(train(small_run(toy_model, tmp_path / "run", ("tensorbored",))))


def test_only_numbers_are_tracked() -> None:
    record = {"step": 3, "reward": 0.5, "kl": float("nan"), "hist/length": {"edges": []}, "done": True, "loss": None}
    assert numbers(record) == {"reward": 0.5}
