"""Options that say where the parts of a run live."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from temper.backends.ray import Ray
from temper.cli import main
from temper.errors import UserError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samplers", "2"], "--samplers has no effect in one process: add --backend ray"),
        (["--backend", "ray", "--faults", "sampler=retry"], "no such fault policy: sampler = 'retry'; roles: sampler"),
        (
            ["--backend", "ray", "--faults", "learner=skip"],
            "a run cannot go on without its learner: 'in place' or 'again'",
        ),
        (["--backend", "ray", "--samplers", "0"], "samplers must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "quickstart", "--eval-tasks", "0", "--out", str(tmp_path / "run"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_ray_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Ray] = []

    def place(ray: Ray, run: object) -> None:
        told.append(ray)
        raise UserError("that is all")

    monkeypatch.setattr(Ray, "place", place)
    words = [
        "--backend",
        "ray",
        "--scratch",
        "fast",
        "--journal",
        "4",
        "--spread",
        "--silence",
        "9",
        "--patience",
        "99",
    ]
    assert main(["run", "quickstart", "--eval-tasks", "0", "--out", str(tmp_path / "run"), *words]) == 2
    [ray] = told
    assert (ray.scratch, ray.journal, ray.spread) == (Path("fast"), 4, True)
    assert (ray.faults.silence, ray.faults.patience) == (9.0, 99.0)


def test_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("temper.backends.ray.find_spec", lambda name: None if name == "ray" else found(name))
    assert main(["run", "quickstart", "--eval-tasks", "0", "--out", str(tmp_path / "run"), "--backend", "ray"]) == 2
    assert "the Ray backend needs Ray: pip install 'ray>=2.50'" in capsys.readouterr().err
